"""The audit trail: chained once, read within the tenant, and every tampering named by its row."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.sdk.trace import TracerProvider
from prometheus_client import CollectorRegistry
from sqlalchemy import text
from sqlalchemy.exc import ProgrammingError

from wireroom_auth.adapters import audit_trail
from wireroom_auth.domain.audit import EMPTY, AuditFact, AuditRecord, ChainCheck, Head, chain_hash, next_record
from wireroom_common.bus import Catalogue, Envelope
from wireroom_common.bus.delivery import BusMetrics, Deliverer
from wireroom_common.clock import SystemClock
from wireroom_common.errors import ErrorKind, OperatorError, WireroomError
from wireroom_common.ids import new_id
from wireroom_common.principal import Principal, PrincipalKind
from wireroom_protos.auth.v1 import auth_pb2
from wireroom_protos.events.v1 import events_pb2

AUDIT = "/wireroom_protos.auth.v1.AuditService/"
TENANT = UUID("0190a000-0000-7000-8000-00000000000a")
OTHER = UUID("0190a000-0000-7000-8000-00000000000b")
THIRD = UUID("0190a000-0000-7000-8000-00000000000c")
KEY = b"k" * 32

AsOwner = Callable[[str], None]


def auditor(tenant: UUID | None = TENANT, *permissions: str) -> Principal:
    return Principal(PrincipalKind.USER, str(new_id()), tenant, permissions=frozenset(permissions or ("audit:read",)))


OPERATOR = auditor(OTHER, "audit:read", "audit:read:all")


def fact_event(action: str = "user.disabled", tenant: UUID | None = TENANT, **changes: Any) -> Envelope:
    payload = events_pb2.AuditRecorded(
        **{"action": action, "outcome": "success", "client_ip": "192.0.2.1", "request_id": "r-1", "details_json": "{}", **changes}
    )
    return Envelope(
        id=new_id(),
        source="wireroom/auth",
        type="audit.recorded",
        time=datetime.now(UTC),
        subject="someone",
        data=payload.SerializeToString(),
        tenant_id=tenant,
        actor="an admin",
    )


def deliverer() -> Deliverer:
    catalogue = Catalogue.from_files(events_pb2.DESCRIPTOR)
    return Deliverer(catalogue, BusMetrics(CollectorRegistry()), SystemClock(), tracer_provider=TracerProvider())


async def deliver(auth: Any, *envelopes: Envelope) -> None:
    (subscription,) = [found for found in auth.service.subscriptions if found.consumer == "auth.audit"]
    bus = deliverer()
    for envelope in envelopes:
        await bus.work(subscription, envelope)


async def dies(auth: Any, work: Callable[[Any], Awaitable[object]]) -> None:
    """Do the work in a transaction that does not come to its commit."""

    async def killed() -> None:
        async with auth.database.system() as connection:
            await work(connection)
            raise ConnectionError

    with pytest.raises(ConnectionError):
        await killed()


async def query(auth: Any, caller: Principal, **request: Any) -> Any:
    return await auth.call(AUDIT + "QueryAudit", auth_pb2.QueryAuditRequest(**request), caller)


async def verify(auth: Any, caller: Principal | None = None, **request: Any) -> Any:
    return await auth.call(AUDIT + "VerifyChain", auth_pb2.VerifyChainRequest(**request), caller or auditor())


async def of_outbox(auth: Any) -> list[Envelope]:
    """What the outbox holds for the consumer."""
    async with auth.database.system() as connection:
        rows = await connection.execute(text("SELECT * FROM outbox WHERE type = 'audit.recorded' ORDER BY id"))
        return [
            Envelope(
                row.id, "wireroom/auth", row.type, row.created_at, row.subject, bytes(row.data), row.tenant_id, actor=row.actor
            )
            for row in rows
        ]


async def test_a_fact_is_read_back_as_it_was_written(auth: Any) -> None:
    sent = fact_event("role.changed", details_json='{"b": [1, 2.50, "\\u0000é"], "a": {}}')
    await deliver(auth, sent, fact_event("user.deleted", outcome="denied"))

    page = await query(auth, auditor())

    first, second = page.records
    assert (first.sequence, second.sequence, page.next_after) == (1, 2, 2)
    assert (first.id, first.action, first.actor, first.subject) == (str(sent.id), "role.changed", "an admin", "someone")
    assert (first.outcome, second.outcome) == ("success", "denied")
    assert (first.client_ip, first.request_id) == ("192.0.2.1", "r-1")
    assert first.time.ToDatetime(tzinfo=UTC) == sent.time
    assert json.loads(first.details_json) == {"a": {}, "b": [1, 2.5, "\x00é"]}
    assert first.previous_hash == "00" * 32
    assert second.previous_hash == first.hash
    verdict = await verify(auth)
    assert (verdict.intact, verdict.records, verdict.head_hash) == (True, 2, second.hash)


@pytest.mark.parametrize("details", ["no json", "[1]", '"text"', '{"a": "' + "x" * 20_000 + '"}', "[" * 100_000])
async def test_a_fact_with_unusable_details_is_chained_without_them(auth: Any, details: str) -> None:
    await deliver(auth, fact_event(details_json=details))
    (record,) = (await query(auth, auditor())).records
    assert len(record.details_json) < 100
    assert isinstance(json.loads(record.details_json), dict)
    assert (await verify(auth)).intact


async def test_nul_in_a_payload_does_not_lose_the_fact(auth: Any) -> None:
    await deliver(auth, fact_event("user\x00.disabled", client_ip="\x00"))
    (record,) = (await query(auth, auditor())).records
    assert record.action == "user\ufffd.disabled"
    assert (await verify(auth)).intact


async def test_deliveries_repeated_at_once_and_after_the_inbox_was_purged_are_chained_once(
    auth: Any, postgres_as_owner: AsOwner
) -> None:
    sent = [fact_event() for _ in range(5)]
    await asyncio.gather(*(deliver(auth, envelope) for envelope in sent * 4))
    postgres_as_owner("DELETE FROM auth.inbox")
    await deliver(auth, *sent)

    records = (await query(auth, auditor())).records
    assert [record.sequence for record in records] == [1, 2, 3, 4, 5]
    assert {record.id for record in records} == {str(envelope.id) for envelope in sent}
    assert (await verify(auth)).intact


async def test_a_consumer_that_dies_before_its_commit_leaves_nothing_and_the_next_delivery_chains(auth: Any) -> None:
    (subscription,) = [found for found in auth.service.subscriptions if found.consumer == "auth.audit"]
    first, second = fact_event("first.done"), fact_event("second.done")
    await dies(auth, lambda connection: subscription.work(connection, first))
    assert not (await query(auth, auditor())).records
    await deliver(auth, second, first)
    records = (await query(auth, auditor())).records
    assert [(record.sequence, record.action) for record in records] == [(1, "second.done"), (2, "first.done")]
    assert (await verify(auth)).intact


async def test_a_thousand_facts_of_three_tenants_at_once_leave_no_gap(auth: Any) -> None:
    chains: Sequence[UUID | None] = (TENANT, OTHER, None)
    queue = [fact_event(tenant=chains[number % 3], request_id=str(number)) for number in range(1000)]
    sent = list(queue)

    async def work() -> None:
        while queue:
            await deliver(auth, queue.pop())

    await asyncio.gather(*(work() for _ in range(8)))

    for chain, caller in ((TENANT, auditor()), (OTHER, auditor(OTHER)), (None, OPERATOR)):
        found: list[Any] = []
        while page := (await query(auth, caller, after=len(found), page_size=200, installation=chain is None)).records:
            found += page
        assert [record.sequence for record in found] == list(range(1, len(found) + 1))
        assert Counter(record.id for record in found) == Counter(str(one.id) for one in sent if one.tenant_id == chain)
        assert (await verify(auth, caller, installation=chain is None)).intact


async def test_every_action_with_its_fact_commits_and_none_without(auth: Any) -> None:
    gateway = Principal(PrincipalKind.SERVICE, "gateway")
    operator = auditor(TENANT, "ip:manage", "audit:read:all")
    method = "/wireroom_protos.auth.v1.AddressService/"
    for number in range(5):
        await auth.call(method + "BlockAddress", auth_pb2.BlockAddressRequest(network=f"192.0.2.{number}"), gateway)
    blocks = (await auth.call(method + "ListBlocks", auth_pb2.ListBlocksRequest(), operator)).blocks
    for block in blocks[:2]:
        await auth.call(method + "LiftBlock", auth_pb2.LiftBlockRequest(id=block.id), operator)
    await dies(auth, lambda connection: audit_trail.record(connection, "user.deleted", tenant_id=None, subject="u", actor="a"))

    await deliver(auth, *await of_outbox(auth))

    actions = Counter(record.action for record in (await query(auth, operator, installation=True)).records)
    actions -= Counter({action: count for action, count in actions.items() if not action.startswith("address.")})
    assert actions == {"address.blocked": 5, "address.unblocked": 2}
    assert "user.deleted" not in actions


async def test_records_are_filtered_and_paged(auth: Any) -> None:
    start = datetime.now(UTC)
    for number in range(6):
        await deliver(auth, fact_event("even.done" if number % 2 == 0 else "odd.done"))

    def sequences(page: Any) -> list[int]:
        return [record.sequence for record in page.records]

    assert sequences(await query(auth, auditor(), action="odd.done")) == [2, 4, 6]
    assert sequences(await query(auth, auditor(), actor="an admin", page_size=2)) == [1, 2]
    assert sequences(await query(auth, auditor(), actor="nobody")) == []
    page = await query(auth, auditor(), action="even.done", page_size=2, after=1)
    assert (sequences(page), page.next_after) == ([3, 5], 5)
    empty = await query(auth, auditor(), after=6)
    assert (sequences(empty), empty.next_after) == ([], 6)
    early, late = Timestamp(), Timestamp()
    early.FromDatetime(start - timedelta(hours=1))
    late.FromDatetime(start + timedelta(hours=1))
    assert len(sequences(await query(auth, auditor(), since=early, until=late))) == 6
    assert sequences(await query(auth, auditor(), until=early)) == []
    assert sequences(await query(auth, auditor(), since=late)) == []


@pytest.mark.parametrize(
    ("request_fields", "code"),
    [
        ({"after": -1}, "after_negative"),
        ({"page_size": -1}, "page_size_out_of_range"),
        ({"since": Timestamp(seconds=10**13)}, "since_out_of_range"),
        ({"until": Timestamp(seconds=-(10**13))}, "until_out_of_range"),
    ],
)
async def test_queries_out_of_range_are_invalid(auth: Any, request_fields: dict[str, Any], code: str) -> None:
    with pytest.raises(WireroomError) as refused:
        await query(auth, auditor(), **request_fields)
    assert (refused.value.kind, refused.value.code) == (ErrorKind.INVALID, code)


async def test_a_chain_is_shown_only_to_auditors_of_its_tenant_and_operators(auth: Any) -> None:
    await deliver(auth, fact_event(), fact_event(tenant=None), fact_event(tenant=None))
    assert len((await query(auth, auditor())).records) == 1
    assert len((await query(auth, auditor(OTHER))).records) == 0
    assert len((await query(auth, OPERATOR, installation=True)).records) == 2
    assert (await verify(auth, auditor(OTHER))).records == 0
    for caller, installation in ((auditor(TENANT, "docs:read"), False), (auditor(), True), (auditor(None), False)):
        for call in (query, verify):
            with pytest.raises(WireroomError) as refused:
                await call(auth, caller, installation=installation)
            assert refused.value.kind is ErrorKind.FORBIDDEN


async def test_no_role_of_the_service_can_change_the_chain(auth: Any) -> None:
    await deliver(auth, fact_event(), fact_event())
    rights: dict[str, dict[str, str]] = {}
    async with auth.database.system() as connection:
        for role in ("auth_app", "auth_system"):
            for table in ("audit_records", "audit_heads", "audit_keys"):
                granted = await connection.execute(
                    text(
                        "SELECT coalesce(string_agg(r, ' ' ORDER BY r), '') FROM unnest(ARRAY['SELECT', 'INSERT', 'UPDATE',"
                        " 'DELETE', 'TRUNCATE', 'REFERENCES', 'TRIGGER']) r"
                        " WHERE has_table_privilege(:role, 'auth.' || :table, r)"
                        " OR (r IN ('SELECT', 'INSERT', 'UPDATE') AND has_any_column_privilege(:role, 'auth.' || :table, r))"
                    ),
                    {"role": role, "table": table},
                )
                rights.setdefault(role, {})[table] = granted.scalar_one()
    assert rights == {
        "auth_app": {"audit_records": "SELECT", "audit_heads": "SELECT", "audit_keys": ""},
        "auth_system": {"audit_records": "INSERT SELECT", "audit_heads": "INSERT SELECT UPDATE", "audit_keys": "INSERT SELECT"},
    }
    for statement in (
        "UPDATE audit_records SET actor = 'x'",
        "DELETE FROM audit_records",
        "TRUNCATE audit_records",
        "ALTER TABLE audit_records DISABLE ROW LEVEL SECURITY",
        "DROP TABLE audit_records",
        "DELETE FROM audit_heads",
        "UPDATE audit_keys SET sealed = ''",
    ):
        for transaction in (auth.database.system(), auth.database.tenant(TENANT)):
            with pytest.raises(ProgrammingError, match=r"permission denied|must be owner"):
                async with transaction as connection:
                    await connection.execute(text(statement))
    assert (await verify(auth)).intact


TAMPERING = {
    "a field": ("UPDATE auth.audit_records SET actor = 'someone else' WHERE sequence = 7", 7, "changed"),
    "the outcome": ("UPDATE auth.audit_records SET outcome = 'denied' WHERE sequence = 1", 1, "changed"),
    "the time": ("UPDATE auth.audit_records SET occurred_at = occurred_at + interval '1 us' WHERE sequence = 20", 20, "changed"),
    "one byte of the details": ("UPDATE auth.audit_records SET details = '{ }' WHERE sequence = 12", 12, "changed"),
    "a hash": ("UPDATE auth.audit_records SET hash = sha256(hash) WHERE sequence = 5", 5, "changed"),
    "a link": ("UPDATE auth.audit_records SET previous_hash = sha256(hash) WHERE sequence = 5", 5, "changed"),
    "a row taken out": ("DELETE FROM auth.audit_records WHERE sequence = 9", 9, "missing"),
    "the first row taken out": ("DELETE FROM auth.audit_records WHERE sequence = 1", 1, "missing"),
    "the newest rows taken out": ("DELETE FROM auth.audit_records WHERE sequence > 17", 18, "missing"),
    "all rows taken out": ("DELETE FROM auth.audit_records", 1, "missing"),
    "a row taken out and the others moved up": (
        (
            "DELETE FROM auth.audit_records WHERE sequence = 9;"
            "UPDATE auth.audit_records SET sequence = sequence + 1000 WHERE sequence > 9;"
            "UPDATE auth.audit_records SET sequence = sequence - 1001 WHERE sequence > 1000;"
            "UPDATE auth.audit_heads SET sequence = 19"
        ),
        9,
        "missing",
    ),
    "a row put in between": (
        (
            "UPDATE auth.audit_records SET sequence = sequence + 1000 WHERE sequence > 9;"
            "UPDATE auth.audit_records SET sequence = sequence - 999 WHERE sequence > 1000;"
            "INSERT INTO auth.audit_records SELECT tenant_id, 10, gen_random_uuid(), occurred_at, 'forger', action, subject, outcome,"
            " client_ip, request_id, details, hash, sha256(hash) FROM auth.audit_records WHERE sequence = 9;"
            "UPDATE auth.audit_heads SET sequence = 21"
        ),
        10,
        "inserted",
    ),
    "a row put at the end": (
        (
            "INSERT INTO auth.audit_records SELECT tenant_id, 21, gen_random_uuid(), occurred_at, 'forger', action, subject, outcome,"
            " client_ip, request_id, details, hash, sha256(hash) FROM auth.audit_records WHERE sequence = 20"
        ),
        21,
        "inserted",
    ),
    "two rows that changed places": (
        (
            "UPDATE auth.audit_records SET sequence = 1004 WHERE sequence = 4;"
            "UPDATE auth.audit_records SET sequence = 4 WHERE sequence = 14;"
            "UPDATE auth.audit_records SET sequence = 14 WHERE sequence = 1004"
        ),
        4,
        "changed",
    ),
    "the head set back": ("UPDATE auth.audit_heads SET sequence = 15", 15, "changed"),
    "the head's hash": ("UPDATE auth.audit_heads SET hash = sha256(hash)", 20, "changed"),
    "a row of another tenant": (
        (
            f"UPDATE auth.audit_records SET tenant_id = '{OTHER}' WHERE sequence = 20;"  # noqa: S608  constants
            f"UPDATE auth.audit_heads SET sequence = 19, hash = (SELECT hash FROM auth.audit_records WHERE sequence = 18)"
        ),
        19,
        "changed",
    ),
}


@pytest.mark.parametrize("how", TAMPERING)
async def test_tampering_with_the_database_is_named_by_its_row(auth: Any, postgres_as_owner: AsOwner, how: str) -> None:
    statements, row, problem = TAMPERING[how]
    await deliver(auth, *(fact_event(request_id=str(number)) for number in range(20)))
    assert (await verify(auth)).intact
    for statement in statements.split(";"):
        postgres_as_owner(statement)

    verdict = await verify(auth)

    assert (verdict.intact, verdict.first_bad_sequence, verdict.problem) == (False, row, problem)
    failures = [
        payload
        for payload in await auth.events_of(events_pb2.AuditRecorded)
        if payload.action == "audit.verified" and payload.outcome == "failure"
    ]
    assert [json.loads(failure.details_json)["first_bad_sequence"] for failure in failures] == [row]


async def test_a_chain_longer_than_a_batch_is_checked_to_its_end(
    auth: Any, postgres_as_owner: AsOwner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wireroom_auth.usecases.audit.BATCH", 7)
    await deliver(auth, *(fact_event() for _ in range(30)))
    verdict = await verify(auth)
    assert (verdict.intact, verdict.records) == (True, 30)
    for row in (29, 15, 14, 8):
        postgres_as_owner(f"UPDATE auth.audit_records SET subject = 'x' WHERE sequence = {row}")  # noqa: S608  literal
        assert (await verify(auth)).first_bad_sequence == row


async def test_chains_are_verified_unasked_once_in_a_while_over_all_replicas(make_auth: Any, postgres_as_owner: AsOwner) -> None:
    replicas = [await make_auth() for _ in range(3)]
    await deliver(replicas[0], fact_event(), fact_event(), fact_event(tenant=OTHER), fact_event(tenant=None))
    postgres_as_owner(f"DELETE FROM auth.audit_records WHERE tenant_id = '{TENANT}' AND sequence = 2")  # noqa: S608  constant
    watches = [found.run for auth in replicas for found in auth.service.periodic if found.name == "auth.audit.watch"]

    async def look() -> list[tuple[UUID | None, Any]]:
        await asyncio.gather(*(watch() for watch in watches))
        return [
            (envelope.tenant_id, json.loads(envelope.payload(events_pb2.AuditRecorded).details_json))
            for envelope in await of_outbox(replicas[0])
            if envelope.payload(events_pb2.AuditRecorded).outcome == "failure"
        ]

    found = (TENANT, {"records": 1, "first_bad_sequence": 2, "problem": "missing"})
    assert await look() == [found]
    assert await look() == [found]
    for auth in replicas:
        auth.clock.advance(86_400)
    assert await look() == [found, found]


async def test_a_new_chain_is_intact_and_a_replica_uses_the_same_key(make_auth: Any) -> None:
    one, two = await make_auth(), await make_auth()
    verdict = await verify(one)
    assert (verdict.intact, verdict.records, verdict.head_hash) == (True, 0, "")
    await deliver(one, fact_event())
    await deliver(two, fact_event())
    assert (await verify(one)).intact
    assert (await verify(two)).records == 2


async def test_another_master_secret_does_not_start(make_auth: Any, postgres_as_owner: AsOwner) -> None:
    one = await make_auth()
    # What refuses first is the signing key; without one, the audit key must.
    postgres_as_owner("DELETE FROM auth.signing_keys")
    with pytest.raises(OperatorError, match="WIREROOM_MASTER_SECRET"):
        await make_auth(infra=type(one.infra)(one.database, master=b"another secret, long enough....."))


def record_of(number: int, actor: str = "a") -> AuditFact:
    return AuditFact(UUID(int=number + 1), datetime(2026, 1, 1, tzinfo=UTC), actor, "x.done", "s", "success", "", "", "{}")


def built(length: int, key: bytes = KEY) -> list[AuditRecord]:
    records: list[AuditRecord] = []
    head = EMPTY
    for number in range(length):
        records.append(next_record(key, TENANT, head, record_of(number)))
        head = Head(records[-1].sequence, records[-1].hash)
    return records


def checked(records: Sequence[AuditRecord], head: Head) -> int:
    check = ChainCheck(KEY, TENANT, head)
    verdict = check.take(records) or check.finish(None)
    return verdict.first_bad_sequence


def test_whoever_lacks_the_key_cannot_chain_anew() -> None:
    forged = built(5, key=b"f" * 32)
    assert checked(forged, Head(5, forged[-1].hash)) == 1


def test_fields_cannot_be_shifted_into_each_other() -> None:
    one = AuditFact(UUID(int=1), datetime(2026, 1, 1, tzinfo=UTC), "ab", "c", "s", "o", "", "", "{}")
    other = AuditFact(UUID(int=1), datetime(2026, 1, 1, tzinfo=UTC), "a", "bc", "s", "o", "", "", "{}")
    assert chain_hash(KEY, TENANT, 1, one, EMPTY.hash) != chain_hash(KEY, TENANT, 1, other, EMPTY.hash)
    assert chain_hash(KEY, TENANT, 1, one, EMPTY.hash) != chain_hash(KEY, OTHER, 1, one, EMPTY.hash)
    assert chain_hash(KEY, TENANT, 1, one, EMPTY.hash) != chain_hash(KEY, TENANT, 2, one, EMPTY.hash)


@given(length=st.integers(1, 30), seed=st.integers(0, 2**32))
@settings(max_examples=200, deadline=None)
def test_the_first_position_where_two_chains_differ_is_the_one_named(length: int, seed: int) -> None:
    rng = random.Random(seed)  # noqa: S311 - test data
    records = built(length)
    head = Head(length, records[-1].hash)
    assert checked(records, head) == 0
    tampered = list(records)
    place = rng.randrange(length)
    match rng.choice(["drop", "change", "swap", "truncate"]):
        case "drop":
            del tampered[place]
        case "change":
            old = tampered[place]
            tampered[place] = AuditRecord(old.sequence, record_of(place, actor="b"), old.previous_hash, old.hash)
        case "swap":
            other = rng.randrange(length)
            tampered[place], tampered[other] = tampered[other], tampered[place]
            tampered = [AuditRecord(at + 1, old.fact, old.previous_hash, old.hash) for at, old in enumerate(tampered)]
        case _:
            del tampered[place:]
    differing = [at for at in range(length) if at >= len(tampered) or tampered[at] != records[at]]
    assert checked(tampered, head) == (differing[0] + 1 if differing else 0)
