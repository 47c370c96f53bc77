from __future__ import annotations

import asyncio
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text

# Test modules are imported by path; what they share stands beside them.
sys.path.insert(0, str(Path(__file__).parent))

from mail_server import Mailbox, mailbox, send, settings_for

from wireroom_common.bus.envelope import Envelope
from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_common.principal import Principal, PrincipalKind
from wireroom_protos.auth.v1 import auth_pb2
from wireroom_protos.events.v1 import events_pb2

AUTH = "/wireroom_protos.auth.v1.AuthService/"
NEW = "seven lamps under the bridge"


def principal_of(user: Any) -> Principal:
    return Principal(PrincipalKind.USER, user.id, UUID(user.tenant_id), frozenset(user.roles), frozenset(user.permissions))


async def forgot(auth: Any, address: str = "ada@example.org") -> Any:
    return await auth.call(AUTH + "StartReset", auth_pb2.StartResetRequest(email=address, client_ip="203.0.113.9"))


async def reset(auth: Any, token: str, password: str = NEW) -> Any:
    return await auth.call(AUTH + "FinishReset", auth_pb2.FinishResetRequest(token=token, new_password=password))


async def verify(auth: Any, token: str) -> Any:
    return (await auth.call(AUTH + "VerifyEmail", auth_pb2.VerifyEmailRequest(token=token))).user


async def refused(call: Any) -> tuple[ErrorKind, str]:
    with pytest.raises(WireroomError) as error:
        await call
    return error.value.kind, error.value.code


async def deliver(auth: Any) -> None:
    """Hand the events that wait in the outbox to the consumer of mails, as the bus does: each once."""
    (consumer,) = [found for found in auth.service.subscriptions if found.consumer == "auth.mails"]
    types = ("auth.user.registered", "auth.password.changed", "auth.second_factor.changed")
    async with auth.database.system() as connection:
        rows = list(
            await connection.execute(text("SELECT * FROM outbox WHERE type = ANY (:types) ORDER BY id"), {"types": list(types)})
        )
        await connection.execute(text("DELETE FROM outbox WHERE type = ANY (:types)"), {"types": list(types)})
    for row in rows:
        async with auth.database.tenant(row.tenant_id) as connection:
            await consumer.work(
                connection, Envelope(row.id, "auth", row.type, row.created_at, row.subject, row.data, tenant_id=row.tenant_id)
            )


async def mailed(auth: Any, box: Mailbox) -> str:
    """Send what waits; the token of the last mail."""
    await send(auth)
    return box.token()


async def test_a_forgotten_password_is_set_by_mail_once(make_auth: Any, password: str) -> None:
    async with mailbox() as box:
        auth = await make_auth(**settings_for(box))
        user = await auth.register_admin()
        await auth.change_user(user, "epoch = 0")
        session = (await auth.login()).tokens
        await forgot(auth, " ADA@example.org ")
        token = await mailed(auth, box)
        assert box.mails[-1]["subject"] == "Set a new password"
        # What may not be chosen leaves the token unspent.
        assert (await refused(reset(auth, token, "short")))[0] is ErrorKind.INVALID
        await reset(auth, token)
        assert await refused(reset(auth, token)) == (ErrorKind.INVALID, "one_time_token_invalid")
        assert (await refused(auth.login(password=password)))[1] == "invalid_credentials"
        assert (await refused(auth.refresh(session.refresh_token)))[0] is ErrorKind.UNAUTHENTICATED
        answer = await auth.login(password=NEW)
        assert answer.user.HasField("email_verified_at")
        (raised,) = await auth.events_of(events_pb2.AuthEpochRaised)
        assert (raised.user_id, raised.reason) == (user.id, "password")
        (changed,) = await auth.events_of(events_pb2.AuthPasswordChanged)
        assert changed.via == "reset"
        audited = [event.action for event in await auth.events_of(events_pb2.AuditRecorded)]
        assert {"password.reset_requested", "password.changed", "email.verified"} <= set(audited)
        told = "".join(str(event) for event in await auth.events())
        assert token not in told
        # The user is told of it.
        await deliver(auth)
        await send(auth)
        assert box.mails[-1]["subject"] == "Your password was changed"


async def test_nobody_learns_who_has_an_account(make_auth: Any) -> None:
    async with mailbox() as box:
        auth = await make_auth(**settings_for(box))
        user = await auth.register_admin()
        viewer = await auth.add_user("gone@example.org", "Viewer")
        async with auth.database.tenant(UUID(user.tenant_id)) as connection:
            await connection.execute(text("UPDATE users SET disabled_at = now() WHERE id = :id"), {"id": UUID(viewer.subject)})
        effects = []
        for address in ("ada@example.org", "nobody@example.org", "gone@example.org"):
            answer = await forgot(auth, address)
            async with auth.database.system() as connection:
                waiting = (await connection.execute(text("SELECT count(*) FROM reset_requests"))).scalar_one()
                mails = (await connection.execute(text("SELECT count(*) FROM mails"))).scalar_one()
            effects.append((answer, waiting, mails, len(await auth.events_of(events_pb2.AuditRecorded))))
        # Each leaves one row and nothing else.
        assert [effect[1] for effect in effects] == [1, 2, 3]
        assert len({effect[2:] for effect in effects}) == 1
        assert await forgot(auth, "no address") == effects[0][0]
        await send(auth)
    assert [recipients for _, recipients in box.envelopes] == [["ada@example.org"]]


async def test_reset_tokens_expire_and_serve_no_other_purpose(make_auth: Any) -> None:
    async with mailbox() as box:
        auth = await make_auth(**settings_for(box))
        user = await auth.register_admin()
        await forgot(auth)
        token = await mailed(auth, box)
        assert await refused(verify(auth, token)) == (ErrorKind.INVALID, "one_time_token_invalid")
        auth.clock.advance(1800)
        assert await refused(reset(auth, token)) == (ErrorKind.INVALID, "one_time_token_invalid")
        for rubbish in ("", "x", "wr_ot_" + "a" * 43, "wr_rt_" + "a" * 43, "\x00"):
            assert await refused(reset(auth, rubbish)) == (ErrorKind.INVALID, "one_time_token_invalid")
        await auth.call(AUTH + "SendVerification", auth_pb2.SendVerificationRequest(), principal_of(user))
        verification = await mailed(auth, box)
        assert await refused(reset(auth, verification)) == (ErrorKind.INVALID, "one_time_token_invalid")
        assert (await verify(auth, verification)).HasField("email_verified_at")
        # Nobody is reset who may not sign in.
        await forgot(auth)
        token = await mailed(auth, box)
        await auth.change_user(user, "disabled_at = :now", now=auth.clock.now())
        assert await refused(reset(auth, token)) == (ErrorKind.INVALID, "one_time_token_invalid")


async def test_one_token_sets_one_password_and_ends_its_siblings(make_auth: Any) -> None:
    async with mailbox() as box:
        auth = await make_auth(**settings_for(box))
        await auth.register_admin()
        await forgot(auth)
        await forgot(auth)
        await send(auth)
        first, second = box.token(0), box.token(1)
        assert first != second
        choices = [f"{NEW} number {number}" for number in range(4)]
        outcomes = await asyncio.gather(*(reset(auth, first, choice) for choice in choices), return_exceptions=True)
        assert sorted(isinstance(outcome, WireroomError) for outcome in outcomes) == [False, True, True, True]
        assert await refused(reset(auth, second)) == (ErrorKind.INVALID, "one_time_token_invalid")
        (chosen,) = [choice for choice, outcome in zip(choices, outcomes, strict=True) if not isinstance(outcome, WireroomError)]
        assert (await auth.login(password=chosen)).tokens.access_token


async def test_changing_the_password_ends_resets_that_wait(make_auth: Any, password: str) -> None:
    async with mailbox() as box:
        auth = await make_auth(**settings_for(box))
        user = await auth.register_admin()
        await forgot(auth)
        await send(auth)
        login = await auth.login()
        caller = replace(principal_of(user), credential_id=login.tokens.session_id)
        change = auth_pb2.ChangePasswordRequest(current_password=password, new_password=NEW)
        await auth.call(AUTH + "ChangePassword", change, caller)
        outcome = await refused(reset(auth, box.token(), "nine foxes at the old harbour"))
        assert outcome == (ErrorKind.INVALID, "one_time_token_invalid")
        assert (await auth.login(password=NEW)).tokens.access_token


async def test_a_reset_ends_the_delays_that_guessing_brought(make_auth: Any) -> None:
    async with mailbox() as box:
        auth = await make_auth(**settings_for(box), login_failures_account=1)
        await auth.register_admin()
        await forgot(auth)
        token = await mailed(auth, box)
        codes = [(await refused(auth.login(password="a wrong guess")))[1] for _ in range(4)]
        assert codes[-1] == "login_backoff"
        await reset(auth, token)
        assert (await auth.login(password=NEW)).tokens.access_token


async def test_mails_of_one_kind_are_few(make_auth: Any) -> None:
    async with mailbox() as box:
        auth = await make_auth(**settings_for(box))
        user = await auth.register_admin()
        for _ in range(6):
            await forgot(auth)
        await send(auth)
        assert len(box.mails) == 3
        for _ in range(3):
            await auth.call(AUTH + "SendVerification", auth_pb2.SendVerificationRequest(), principal_of(user))
        call = auth.call(AUTH + "SendVerification", auth_pb2.SendVerificationRequest(), principal_of(user))
        assert await refused(call) == (ErrorKind.RATE_LIMITED, "verification_mails_limited")
        auth.clock.advance(3601)
        await forgot(auth)
        await send(auth)
    assert [mail["subject"] for mail in box.mails].count("Set a new password") == 4


async def test_newcomers_are_welcomed_and_verify_their_address(make_auth: Any) -> None:
    async with mailbox() as box:
        auth = await make_auth(**settings_for(box))
        user = await auth.register_admin()
        assert not user.HasField("email_verified_at")
        await deliver(auth)
        token = await mailed(auth, box)
        assert box.mails[-1]["subject"] == "Welcome to Wireroom"
        verified = await verify(auth, token)
        assert (verified.id, verified.HasField("email_verified_at")) == (user.id, True)
        assert await refused(verify(auth, token)) == (ErrorKind.INVALID, "one_time_token_invalid")
        assert len(await auth.events_of(events_pb2.AuthEmailVerified)) == 1
        call = auth.call(AUTH + "SendVerification", auth_pb2.SendVerificationRequest(), principal_of(user))
        assert await refused(call) == (ErrorKind.CONFLICT, "email_already_verified")


async def test_who_was_given_an_account_without_a_password_chooses_one(make_auth: Any) -> None:
    async with mailbox() as box:
        auth = await make_auth(**settings_for(box))
        admin = principal_of(await auth.register_admin())
        request = auth_pb2.CreateUserRequest(email="grace@example.org", roles=["Viewer"])
        await auth.call("/wireroom_protos.auth.v1.DirectoryService/CreateUser", request, admin)
        await deliver(auth)
        await send(auth)
        (mail,) = [mail for mail in box.mails if mail["to"] == "grace@example.org"]
        assert mail["subject"] == "Your account at Wireroom"
        auth.clock.advance(23 * 3600)
        await reset(auth, box.token(box.mails.index(mail)))
        answer = await auth.login("grace@example.org", NEW)
        assert answer.user.HasField("email_verified_at")


async def test_an_invitation_is_mailed(make_auth: Any) -> None:
    async with mailbox() as box:
        auth = await make_auth(**settings_for(box))
        admin = principal_of(await auth.register_admin())
        request = auth_pb2.CreateInvitationRequest(email="grace@example.org", roles=["Viewer"])
        made = await auth.call("/wireroom_protos.auth.v1.DirectoryService/CreateInvitation", request, admin)
        token = await mailed(auth, box)
        assert (box.mails[-1]["to"], box.mails[-1]["subject"]) == ("grace@example.org", "You are invited to Wireroom")
        assert token == made.token
        registration = auth_pb2.RegisterRequest(email="grace@example.org", password=NEW, invitation_token=token)
        assert (await auth.call(AUTH + "Register", registration)).user.email == "grace@example.org"


async def test_a_token_is_bound_to_the_address_it_was_sent_to(make_auth: Any) -> None:
    async with mailbox() as box:
        auth = await make_auth(**settings_for(box))
        user = await auth.register_admin()
        await auth.call(AUTH + "SendVerification", auth_pb2.SendVerificationRequest(), principal_of(user))
        token = await mailed(auth, box)
        await forgot(auth)
        reset_token = await mailed(auth, box)
        await auth.change_user(user, "email = 'other@example.org'")
        assert await refused(verify(auth, token)) == (ErrorKind.INVALID, "one_time_token_invalid")
        assert await refused(reset(auth, reset_token)) == (ErrorKind.INVALID, "one_time_token_invalid")
    async with auth.database.tenant(UUID(user.tenant_id)) as connection:
        assert await connection.scalar(text("SELECT count(*) FROM users WHERE email_verified_at IS NOT NULL")) == 0


async def test_an_api_key_asks_for_no_mail(make_auth: Any) -> None:
    async with mailbox() as box:
        auth = await make_auth(**settings_for(box))
        user = principal_of(await auth.register_admin())
        key = Principal(PrincipalKind.API_KEY, user.subject, user.tenant_id, credential_id="k")
        call = auth.call(AUTH + "SendVerification", auth_pb2.SendVerificationRequest(), key)
        assert await refused(call) == (ErrorKind.FORBIDDEN, "session_required")


async def test_tokens_in_waiting_mails_cannot_be_read_in_the_database(make_auth: Any) -> None:
    async with mailbox() as box:
        auth = await make_auth(**settings_for(box))
        await auth.register_admin()
        await box.close()
        await forgot(auth)
        await send(auth)
        async with auth.database.system() as connection:
            stored = (await connection.execute(text("SELECT content_sealed FROM mails"))).scalar_one()
        await box.open()
        auth.clock.advance(60)
        token = await mailed(auth, box)
        assert token.encode() not in stored
        assert b"ada@example.org" not in stored
