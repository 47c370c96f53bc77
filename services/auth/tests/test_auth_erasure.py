"""Erasures: what this service erases itself, answers of the others, the receipt, and what happens when an answer is missing."""

from __future__ import annotations

import base64
import json
from typing import Any
from uuid import UUID, uuid4

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA1
from cryptography.hazmat.primitives.twofactor.totp import TOTP
from google.protobuf.message import Message
from prometheus_client import CollectorRegistry
from sqlalchemy import text

from wireroom_auth.domain.erasure import PARTS
from wireroom_auth.domain.login_backoff import AttemptKeys
from wireroom_common.bus import Catalogue, Envelope, event_type
from wireroom_common.bus.delivery import BusMetrics, Deliverer
from wireroom_common.clock import SystemClock
from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_common.ids import new_id
from wireroom_common.principal import Principal
from wireroom_protos.auth.v1 import auth_pb2, privacy_pb2
from wireroom_protos.events.v1 import events_pb2

PRIVACY = "/wireroom_protos.auth.v1.PrivacyService/"
FACTORS = "/wireroom_protos.auth.v1.SecondFactorService/"
OTHERS = [part for part in PARTS if part != "auth"]


class Hands:
    """What the tests do with the service."""

    def __init__(self, auth: Any, password: str) -> None:
        self.auth = auth
        self.password = password
        catalogue = Catalogue.from_files(events_pb2.DESCRIPTOR)
        self._deliverer = Deliverer(catalogue, BusMetrics(CollectorRegistry()), SystemClock())

    async def call(self, method: str, caller: Principal, **fields: Any) -> Any:
        return await self.auth.call(PRIVACY + method, getattr(privacy_pb2, f"{method}Request")(**fields), caller)

    async def leaver(self, operator: Principal, email: str = "leaver@example.org", *roles: str) -> Principal:
        user = await self.auth.directory(
            "CreateUser", operator, email=email, name="Leaver Name", roles=roles or ("Analyst",), password=self.password
        )
        return await self.auth.caller(user.user.id)

    async def erase(self, caller: Principal, **fields: str) -> Any:
        return await self.call("EraseMe", caller, **{"password": self.password, **fields})

    async def answer(self, tenant_id: UUID | None, event: Message, *, event_id: UUID | None = None) -> None:
        subscription = next(entry for entry in self.auth.service.subscriptions if entry.consumer == "auth.erasure")
        envelope = Envelope(
            id=event_id or new_id(),
            source="rag",
            type=event_type(event),
            time=self.auth.clock.now(),
            subject="",
            data=event.SerializeToString(),
            tenant_id=tenant_id,
        )
        await self._deliverer.work(subscription, envelope)

    async def answers(self, caller: Principal, erasure_id: str, *parts: str) -> None:
        for part in parts:
            done = events_pb2.PrivacyErasurePartDone(erasure_id=erasure_id, part=part, counts={"things": 3})
            await self.answer(caller.tenant(), done)

    async def follow(self) -> None:
        await next(entry for entry in self.auth.service.periodic if entry.name == "auth.erasures").run()

    def metric(self, name: str) -> float | None:
        return self.auth.infra.registry.get_sample_value(f"wireroom_auth_erasures_{name}")


@pytest.fixture
def hands(auth: Any, password: str) -> Hands:
    return Hands(auth, password)


async def test_the_account_goes_at_once_and_the_receipt_with_the_last_answer(hands: Hands) -> None:
    auth = hands.auth
    operator = await auth.operator()
    leaver = await hands.leaver(operator)
    await auth.login("leaver@example.org", hands.password)
    key = await auth.create_key(leaver, name="words of the leaver")
    with pytest.raises(WireroomError) as wrong:
        await hands.erase(leaver, password="not the right one")
    assert (wrong.value.kind, wrong.value.code) == (ErrorKind.FORBIDDEN, "password_wrong")

    begun = await hands.erase(leaver)
    erasure_id = begun.erasure.id
    assert begun.erasure.state == privacy_pb2.ERASURE_STATE_REQUESTED
    assert await _rows(auth, "SELECT 1 FROM login_attempts WHERE key = :key", key=_address("leaver@example.org")) == []
    for refused in (auth.login("leaver@example.org", hands.password), auth.verify_key(key.secret), hands.erase(leaver)):
        with pytest.raises(WireroomError) as gone:
            await refused
        assert gone.value.kind is ErrorKind.UNAUTHENTICATED
    (asked,) = await auth.events_of(events_pb2.PrivacyErasureRequested)
    assert (asked.erasure_id, asked.user_id, asked.transfer_to) == (erasure_id, leaver.subject, "")
    (deleted,) = await auth.events_of(events_pb2.AuthUserDeleted)
    assert deleted.erasure_id == erasure_id
    own = next(part for part in begun.erasure.parts if part.part == "auth")
    assert {name: own.counts[name] for name in ("users", "sessions", "api_keys")} == {"users": 1, "sessions": 1, "api_keys": 1}

    await hands.answers(leaver, erasure_id, *OTHERS[:-1])
    waiting = (await hands.call("OpenErasure", operator, id=erasure_id, token=begun.token)).erasure
    assert (waiting.state, waiting.receipt) == (privacy_pb2.ERASURE_STATE_RUNNING, "")
    assert [part.part for part in waiting.parts if not part.HasField("done_at")] == OTHERS[-1:]
    # Twice, and of something nobody knows: nothing changes.
    await hands.answers(leaver, erasure_id, OTHERS[0])
    await hands.answers(leaver, str(uuid4()), OTHERS[-1])
    await hands.answers(leaver, erasure_id, OTHERS[-1])

    done = (await hands.call("GetErasure", operator, id=erasure_id)).erasure
    assert done.state == privacy_pb2.ERASURE_STATE_COMPLETED
    told = json.loads(done.receipt)
    assert [store["store"] for store in told["stores"]] == sorted(PARTS)
    assert {store["counts"].get("things") for store in told["stores"] if store["store"] != "auth"} == {3}
    published = (await hands.call("GetReceiptKey", operator)).public_key
    assert published == done.public_key
    key_of = Ed25519PublicKey.from_public_bytes(base64.b64decode(published))
    key_of.verify(base64.b64decode(done.signature), done.receipt.encode())
    (completed,) = await auth.events_of(events_pb2.PrivacyErasureCompleted)
    assert completed.user_id == leaver.subject
    assert "words of the leaver" not in str(await auth.events())
    assert [one.id for one in (await hands.call("ListErasures", operator)).erasures] == [erasure_id]


async def test_who_sees_an_erasure(hands: Hands) -> None:
    auth = hands.auth
    operator = await auth.operator()
    leaver, colleague = await hands.leaver(operator), await hands.leaver(operator, "colleague@example.org")
    begun = await hands.erase(leaver)
    for method, caller, fields in (
        ("GetErasure", colleague, {"id": begun.erasure.id}),
        ("OpenErasure", colleague, {"id": begun.erasure.id, "token": "x" * 43}),
        ("OpenErasure", colleague, {"id": str(uuid4()), "token": begun.token}),
    ):
        with pytest.raises(WireroomError) as hidden:
            await hands.call(method, caller, **fields)
        assert hidden.value.code == "erasure_not_found"
    with pytest.raises(WireroomError) as refused:
        await hands.call("ListErasures", colleague)
    assert refused.value.kind is ErrorKind.FORBIDDEN
    elsewhere = await auth.add_user("x@example.org", "Admin", tenant_id=await auth.add_tenant("other"))
    assert list((await hands.call("ListErasures", elsewhere)).erasures) == []


async def test_a_second_factor_is_asked_for(hands: Hands) -> None:
    auth = hands.auth
    leaver = await hands.leaver(await auth.operator())
    enrolled = await auth.call(FACTORS + "EnrollTotp", auth_pb2.EnrollTotpRequest(password=hands.password), leaver)
    totp = TOTP(base64.b32decode(enrolled.secret + "=" * (-len(enrolled.secret) % 8)), 6, SHA1(), 30, enforce_key_length=False)  # noqa: S303 - RFC 6238

    def code() -> str:
        return totp.generate(int(auth.clock.now().timestamp())).decode()

    await auth.call(FACTORS + "ConfirmTotp", auth_pb2.ConfirmTotpRequest(code=code()), leaver)
    for wrong in ("", "000000"):
        with pytest.raises(WireroomError) as refused:
            await hands.erase(leaver, code=wrong)
        assert refused.value.code == "mfa_code_invalid"
    await auth.pass_time(60)
    assert (await hands.erase(leaver, code=code())).token


async def test_services_that_do_not_answer_are_asked_again_and_shown(make_auth: Any, password: str) -> None:
    hands = Hands(await make_auth(erasure_deadline_hours=1, erasure_reminder_seconds=60), password)
    auth = hands.auth
    operator = await auth.operator()
    leaver = await hands.leaver(operator)
    begun = await hands.erase(leaver)
    await hands.answers(leaver, begun.erasure.id, *OTHERS[1:])
    await hands.follow()
    assert (hands.metric("open"), hands.metric("overdue")) == (1, 0)
    assert len(await auth.events_of(events_pb2.PrivacyErasureRequested)) == 1
    await auth.pass_time(61)
    await hands.follow()
    assert len(await auth.events_of(events_pb2.PrivacyErasureRequested)) == 2
    await auth.pass_time(3600)
    await hands.follow()
    late = (await hands.call("GetErasure", operator, id=begun.erasure.id)).erasure
    assert (late.state, late.receipt) == (privacy_pb2.ERASURE_STATE_FAILED, "")
    assert hands.metric("overdue") == 1
    audited = [event for event in await auth.events_of(events_pb2.AuditRecorded) if event.action == "erasure.overdue"]
    assert [json.loads(event.details_json)["missing"] for event in audited] == [OTHERS[:1]]
    # It goes on.
    await hands.answers(leaver, begun.erasure.id, OTHERS[0])
    done = (await hands.call("GetErasure", operator, id=begun.erasure.id)).erasure
    assert done.state == privacy_pb2.ERASURE_STATE_COMPLETED
    await hands.follow()
    assert (hands.metric("open"), hands.metric("overdue")) == (0, 0)


async def test_the_last_admin_stays_and_an_heir_must_be_somebody(hands: Hands) -> None:
    auth = hands.auth
    operator = await auth.operator()
    with pytest.raises(WireroomError) as last:
        await hands.erase(operator)
    assert last.value.kind is ErrorKind.CONFLICT
    leaver = await hands.leaver(operator)
    stranger = await auth.add_user("x@example.org", "Viewer", tenant_id=await auth.add_tenant("other"))
    for heir in (leaver.subject, stranger.subject, str(uuid4())):
        with pytest.raises(WireroomError) as refused:
            await auth.directory("DeleteUser", operator, id=leaver.subject, transfer_to=heir)
        assert refused.value.code == "transfer_target_invalid"
    with pytest.raises(WireroomError) as both:
        await auth.directory("DeleteUser", operator, id=leaver.subject, transfer_to=operator.subject, erase_shared=True)
    assert both.value.code == "transfer_ambiguous"
    await auth.directory("DeleteUser", operator, id=leaver.subject)
    (asked,) = await auth.events_of(events_pb2.PrivacyErasureRequested)
    assert asked.transfer_to == operator.subject


async def test_a_tenant_goes_with_everybody_in_it(hands: Hands) -> None:
    auth = hands.auth
    operator = await auth.operator()
    tenant_id = await auth.add_tenant("Acme Harbours")
    admin = await auth.add_user("boss@acme.example", "Admin", tenant_id=tenant_id)
    await auth.add_user("clerk@acme.example", "Viewer", tenant_id=tenant_id)
    for name, code in (("acme harbours", "tenant_name_wrong"), ("default", "tenant_name_wrong")):
        with pytest.raises(WireroomError) as refused:
            await hands.call("EraseTenant", admin, name=name, password=hands.password)
        assert refused.value.code == code
    with pytest.raises(WireroomError) as kept:
        await hands.call("EraseTenant", operator, name="default", password=hands.password)
    assert kept.value.code == "default_tenant"
    with pytest.raises(WireroomError):
        await auth.login("clerk@acme.example", "not the right one")
    address = _address("clerk@acme.example")
    assert len(await _rows(auth, "SELECT 1 FROM login_attempts WHERE key = :key", key=address)) == 1
    begun = await hands.call("EraseTenant", admin, name="Acme Harbours", password=hands.password)
    assert await _rows(auth, "SELECT 1 FROM login_attempts WHERE key = :key", key=address) == []
    assert begun.erasure.user_id == ""
    assert await _rows(auth, "SELECT 1 FROM tenants WHERE tenant_id = :id", id=tenant_id) == []
    assert await _rows(auth, "SELECT 1 FROM users WHERE tenant_id = :id", id=tenant_id) == []
    with pytest.raises(WireroomError):
        await auth.login("boss@acme.example", hands.password)
    await hands.answers(admin, begun.erasure.id, *OTHERS)
    done = (await hands.call("OpenErasure", operator, id=begun.erasure.id, token=begun.token)).erasure
    assert json.loads(done.receipt)["subject"] == "tenant"
    assert {part.part: part.counts["users"] for part in done.parts if part.part == "auth"} == {"auth": 2}


async def test_answers_that_nobody_can_give_are_refused(hands: Hands) -> None:
    leaver = await hands.leaver(await hands.auth.operator())
    begun = await hands.erase(leaver)
    for part, tenant_id in (("auth", leaver.tenant()), ("mail", leaver.tenant()), ("rag", None)):
        with pytest.raises(ValueError, match="part"):
            await hands.answer(tenant_id, events_pb2.PrivacyErasurePartDone(erasure_id=begun.erasure.id, part=part))


async def test_a_user_reads_what_was_audited_of_them_and_no_more(hands: Hands) -> None:
    auth = hands.auth
    operator = await auth.operator()
    user = await hands.leaver(operator)
    started = await hands.call("StartExport", user)
    assert (started.user.id, started.user.email) == (user.subject, "leaver@example.org")
    chain = next(entry for entry in auth.service.subscriptions if entry.consumer == "auth.audit")
    await _chain(auth, chain)
    records = (await hands.call("ListOwnAudit", user)).records
    assert {"user.registered", "data.exported"} <= {record.action for record in records}
    assert all(user.subject in (record.actor, record.subject) for record in records)
    first = (await hands.call("ListOwnAudit", user, page_size=1)).records
    rest = (await hands.call("ListOwnAudit", user, after=first[0].sequence)).records
    assert [record.id for record in (*first, *rest)] == [record.id for record in records]
    verified = await auth.verify_key((await auth.create_key(user)).secret)
    with pytest.raises(WireroomError) as refused:
        await hands.call("StartExport", auth.key_caller(verified))
    assert refused.value.code in {"session_required", "permission_missing"}


async def _chain(auth: Any, subscription: Any) -> None:
    async with auth.database.system() as connection:
        rows = (await connection.execute(text("SELECT * FROM outbox WHERE type = 'audit.recorded' ORDER BY id"))).all()
    for row in rows:
        envelope = Envelope(
            row.id, "auth", row.type, auth.clock.now(), row.subject, bytes(row.data), tenant_id=row.tenant_id, actor=row.actor
        )
        async with auth.database.system() as connection:
            await subscription.work(connection, envelope)


async def _rows(auth: Any, query: str, **values: Any) -> list[Any]:
    async with auth.database.system() as connection:
        return list((await connection.execute(text(query), values)).all())


def _address(email: str) -> bytes:
    return AttemptKeys.of(email, "").address
