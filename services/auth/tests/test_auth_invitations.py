from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text

from wireroom_auth.adapters.encryption import Sealing
from wireroom_auth.adapters.mail_outbox import MailOutbox
from wireroom_auth.domain.mail import MailKind
from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_common.principal import Principal
from wireroom_protos.auth.v1 import auth_pb2
from wireroom_protos.events.v1 import events_pb2

DAY = 86_400


async def invited(auth: Any, caller: Principal, email: str = "vera@example.org", *roles: str, **fields: Any) -> Any:
    return await auth.directory("CreateInvitation", caller, email=email, roles=roles or ["Viewer"], **fields)


async def accept(auth: Any, token: str, email: str = "vera@example.org", **fields: Any) -> Any:
    request = auth_pb2.RegisterRequest(
        email=email, invitation_token=token, **{"password": "four horses in the rain", "name": "V", **fields}
    )
    return (await auth.call("/wireroom_protos.auth.v1.AuthService/Register", request)).user


async def assert_void(auth: Any, token: str, email: str = "vera@example.org") -> None:
    with pytest.raises(WireroomError) as error:
        await accept(auth, token, email)
    assert (error.value.kind, error.value.code) == (ErrorKind.FORBIDDEN, "invitation_invalid")


async def test_an_invited_person_registers_as_what_they_were_invited(auth: Any) -> None:
    operator = await auth.operator()
    await auth.directory("PutRole", operator, name="Reader", permissions=["webhooks:manage"])
    answer = await invited(auth, operator, " VERA@example.org", "Reader", "Viewer")
    assert answer.token.startswith("wr_inv_")
    assert answer.invitation.email == "vera@example.org"
    assert answer.invitation.expires_at.seconds - answer.invitation.created_at.seconds == 7 * DAY
    user = await accept(auth, answer.token, "Vera@Example.org")
    assert (list(user.roles), user.tenant_id) == (["Reader", "Viewer"], str(operator.tenant_id))
    assert "webhooks:manage" in user.permissions
    assert set((await auth.login("vera@example.org")).user.permissions) == set(user.permissions)
    (listed,) = (await auth.directory("ListInvitations", operator)).invitations
    assert listed.HasField("accepted_at")
    event = (await auth.events_of(events_pb2.AuthUserRegistered))[-1]
    assert (event.user_id, event.via) == (user.id, "invitation")
    actions = [record.action for record in await auth.events_of(events_pb2.AuditRecorded)]
    assert {"invitation.created", "invitation.accepted", "user.registered"} <= set(actions)
    await assert_void(auth, answer.token, "vera@example.org")
    with pytest.raises(WireroomError) as error:
        await auth.directory("RevokeInvitation", operator, id=listed.id)
    assert (error.value.kind, error.value.code) == (ErrorKind.CONFLICT, "invitation_accepted")


async def test_the_token_is_stored_nowhere(auth: Any, fresh_database_url: str) -> None:
    token = (await invited(auth, await auth.operator())).token
    async with auth.database.system() as connection:
        rows = await connection.execute(text("SELECT i::text FROM invitations i UNION ALL SELECT o::text FROM outbox o"))
        dump = "\n".join(rows.scalars())
    assert "vera@example.org" in dump
    for form in (token, token[-20:], token.encode().hex()):
        assert form not in dump


async def test_an_invitation_works_once_for_one_address_in_its_time(auth: Any) -> None:
    operator = await auth.operator()
    token = (await invited(auth, operator, ttl_seconds=DAY)).token
    await assert_void(auth, token, "other@example.org")
    for wrong in ("x", token[:-1], token + "A", "wr_inv_" + "A" * 43, "wr_rt_" + token[7:]):
        await assert_void(auth, wrong)
    with pytest.raises(WireroomError, match="password_too_short"):
        await accept(auth, token, password="short")
    auth.clock.advance(DAY - 1)
    assert (await accept(auth, token)).id
    late = (await invited(auth, operator, "late@example.org", ttl_seconds=DAY)).token
    auth.clock.advance(DAY)
    await assert_void(auth, late, "late@example.org")


async def test_parallel_uses_make_one_user(auth: Any, race: Any) -> None:
    token = (await invited(auth, await auth.operator())).token
    outcomes = await race("SELECT 1 FROM auth.tenants FOR UPDATE", *(accept(auth, token) for _ in range(4)))
    refused = [outcome.code for outcome in outcomes if isinstance(outcome, WireroomError)]
    assert refused == ["invitation_invalid"] * 3
    async with auth.database.system() as connection:
        assert (await connection.execute(text("SELECT count(*) FROM users"))).scalar_one() == 2


async def test_a_withdrawn_or_replaced_invitation_is_void(auth: Any) -> None:
    operator = await auth.operator()
    first = await invited(auth, operator)
    second = await invited(auth, operator)
    await assert_void(auth, first.token)
    assert [entry.id for entry in (await auth.directory("ListInvitations", operator)).invitations] == [second.invitation.id]
    await auth.directory("RevokeInvitation", operator, id=second.invitation.id)
    await assert_void(auth, second.token)
    with pytest.raises(WireroomError, match="invitation_not_found"):
        await auth.directory("RevokeInvitation", operator, id=second.invitation.id)


@pytest.mark.parametrize("loss", ["disabled", "demoted", "deleted"])
async def test_an_invitation_falls_with_who_made_it(auth: Any, loss: str) -> None:
    operator = await auth.operator()
    admin = await auth.add_user("admin@example.org", "Admin")
    token = (await invited(auth, admin, "vera@example.org", "Admin")).token
    if loss == "deleted":
        await auth.directory("DeleteUser", operator, id=admin.subject)
    elif loss == "disabled":
        await auth.directory("UpdateUser", operator, id=admin.subject, disabled=True)
    else:
        await auth.directory("UpdateUser", operator, id=admin.subject, roles=auth_pb2.RoleNames(names=["Analyst"]))
    await assert_void(auth, token)


async def test_a_role_that_grew_beyond_the_inviter_is_not_given(auth: Any) -> None:
    operator = await auth.operator()
    await auth.directory("PutRole", operator, name="Desk", permissions=["users:manage"])
    await auth.directory("PutRole", operator, name="Guest", permissions=["users:manage"])
    desk = await auth.caller((await auth.add_user("desk@example.org", "Desk")).subject)
    token = (await invited(auth, desk, "vera@example.org", "Guest")).token
    await auth.directory("PutRole", operator, name="Guest", permissions=["users:manage", "audit:read"])
    await assert_void(auth, token)
    await auth.directory("PutRole", operator, name="Guest", permissions=["users:manage"])
    assert list((await accept(auth, token)).roles) == ["Guest"]


async def test_a_deleted_role_that_comes_back_stronger_is_not_given(auth: Any) -> None:
    operator = await auth.operator()
    await auth.directory("PutRole", operator, name="Desk", permissions=["users:manage", "news:read"])
    await auth.directory("PutRole", operator, name="Guest", permissions=["news:read"])
    desk = await auth.caller((await auth.add_user("desk@example.org", "Desk")).subject)
    token = (await invited(auth, desk, "vera@example.org", "Guest")).token
    await auth.directory("DeleteRole", operator, name="Guest")
    await assert_void(auth, token)
    await auth.directory("PutRole", operator, name="Guest", permissions=["audit:read"])
    await assert_void(auth, token)


async def test_a_taken_address_leaves_the_invitation_unspent(auth: Any) -> None:
    operator = await auth.operator()
    other = await auth.add_tenant("other")
    elsewhere = await auth.add_user("vera@example.org", "Admin", tenant_id=other)
    await auth.add_user("second@example.org", "Admin", tenant_id=other)
    answer = await invited(auth, operator)
    with pytest.raises(WireroomError, match="email_taken"):
        await accept(auth, answer.token)
    stranger = await auth.caller((await auth.add_user("third@example.org", "Admin", tenant_id=other)).subject)
    await auth.directory("DeleteUser", stranger, id=elsewhere.subject)
    assert (await accept(auth, answer.token)).tenant_id == str(operator.tenant_id)
    with pytest.raises(WireroomError, match="email_taken"):
        await invited(auth, operator)


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"email": "nobody"}, "email_malformed"),
        ({"roles": ["Nobody"]}, "role_unknown"),
        ({"ttl_seconds": 299}, "ttl_out_of_range"),
        ({"ttl_seconds": -1}, "ttl_out_of_range"),
        ({"ttl_seconds": 31 * DAY}, "ttl_out_of_range"),
        ({"tenant_id": "x"}, "id_malformed"),
        ({"email": "ada@example.org"}, "email_taken"),
    ],
)
async def test_bad_invitations_are_refused(auth: Any, fields: dict[str, Any], code: str) -> None:
    operator = await auth.operator()
    with pytest.raises(WireroomError) as error:
        await auth.directory("CreateInvitation", operator, **{"email": "vera@example.org", "roles": ["Viewer"], **fields})
    assert error.value.code == code
    assert list((await auth.directory("ListInvitations", operator)).invitations) == []


async def test_no_more_invitations_wait_than_set(make_auth: Any) -> None:
    auth = await make_auth(max_pending_invitations=2)
    operator = await auth.operator()
    for number in range(2):
        await invited(auth, operator, f"u{number}@example.org")
    await invited(auth, operator, "u1@example.org")
    with pytest.raises(WireroomError) as error:
        await invited(auth, operator, "u2@example.org")
    assert (error.value.kind, error.value.code) == (ErrorKind.CONFLICT, "invitation_limit_reached")
    auth.clock.advance(7 * DAY)
    assert (await invited(auth, operator, "u2@example.org")).token


async def test_lists_page_and_expired_invitations_go(auth: Any) -> None:
    operator = await auth.operator()
    for number in range(3):
        await invited(auth, operator, f"u{number}@example.org")
    first = await auth.directory("ListInvitations", operator, page_size=2)
    second = await auth.directory("ListInvitations", operator, page_size=2, page_token=first.next_page_token)
    assert [entry.email for entry in (*first.invitations, *second.invitations)] == [f"u{n}@example.org" for n in (2, 1, 0)]
    assert second.next_page_token == ""
    purge = next(work for work in auth.service.periodic if work.name == "auth.invitations.purge")
    auth.clock.advance(36 * DAY)
    await purge.run()
    assert len((await auth.directory("ListInvitations", operator)).invitations) == 3
    auth.clock.advance(2 * DAY)
    await purge.run()
    assert list((await auth.directory("ListInvitations", operator)).invitations) == []


async def test_an_invitation_and_the_admin_token_do_not_mix(auth: Any) -> None:
    with pytest.raises(WireroomError) as error:
        await accept(auth, "wr_inv_" + "A" * 43, admin_token=auth.infra.admin_token())
    assert error.value.code == "token_ambiguous"
    assert (await auth.register_admin()).roles


async def test_other_tenants_connections_see_no_invitation(auth: Any) -> None:
    await invited(auth, await auth.operator())
    other = await auth.add_tenant("other")
    async with auth.database.tenant(other) as connection:
        assert (await connection.execute(text("SELECT count(*) FROM invitations"))).scalar_one() == 0
        assert (await connection.execute(text("DELETE FROM invitations"))).rowcount == 0
        tenants = await connection.execute(text("SELECT tenant_id FROM tenants"))
        assert tenants.scalars().all() == [UUID(str(other))]


async def test_with_a_mail_server_invitations_and_requests_for_a_password_are_mailed(make_auth: Any) -> None:
    auth = await make_auth(smtp_host="127.0.0.1", smtp_from="wireroom@example.org", smtp_security="none")
    operator = await auth.operator()
    answer = await invited(auth, operator)
    await auth.directory("CreateUser", operator, email="new@example.org", roles=["Viewer"])
    await auth.directory("CreateUser", operator, email="other@example.org", roles=["Viewer"], password="four horses in the rain")
    outbox = MailOutbox(auth.clock, Sealing(lambda: auth.infra.master), configured=True)
    mails = {mail.to: mail for mail in await outbox.lease(auth.database, limit=10, seconds=60)}
    assert {address: mail.kind for address, mail in mails.items()} == {
        "vera@example.org": MailKind.INVITATION,
        "new@example.org": MailKind.SET_PASSWORD,
    }
    assert mails["vera@example.org"].token == answer.token
    reset = auth_pb2.FinishResetRequest(token=mails["new@example.org"].token, new_password="seven cats on the roof")
    await auth.call("/wireroom_protos.auth.v1.AuthService/FinishReset", reset)
    assert (await auth.login("new@example.org", "seven cats on the roof")).user.email == "new@example.org"
