from __future__ import annotations

import asyncio
import base64
import json
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text

from wireroom_auth.adapters.epochs import raise_epoch, raise_tenant_epoch
from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_common.principal import Principal, PrincipalKind
from wireroom_protos.auth.v1 import auth_pb2
from wireroom_protos.events.v1 import events_pb2

AUTH = "/wireroom_protos.auth.v1.AuthService/"
NEW_PASSWORD = "seven lamps on a hill"


def claims(access_token: str) -> dict[str, Any]:
    body = access_token.split(".")[1]
    decoded: dict[str, Any] = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    return decoded


async def signed_in(auth: Any) -> tuple[Any, Any, Principal]:
    user = await auth.register_admin()
    tokens = (await auth.login()).tokens
    caller = Principal(
        PrincipalKind.USER,
        user.id,
        UUID(user.tenant_id),
        frozenset(user.roles),
        frozenset(user.permissions),
        credential_id=tokens.session_id,
    )
    return user, tokens, caller


async def can_refresh(auth: Any, tokens: Any) -> bool:
    outcome = (await asyncio.gather(auth.refresh(tokens.refresh_token), return_exceptions=True))[0]
    assert not isinstance(outcome, WireroomError) or outcome.code == "refresh_token_invalid"
    return not isinstance(outcome, BaseException)


async def epochs(auth: Any) -> list[tuple[str, int]]:
    answer = await auth.call(AUTH + "ListRevocations", auth_pb2.ListRevocationsRequest())
    return [(raised.user_id, raised.epoch) for raised in answer.epochs]


async def change(auth: Any, caller: Principal, current: str, new: str, **more: str) -> Any:
    request = auth_pb2.ChangePasswordRequest(current_password=current, new_password=new, **more)
    return (await auth.call(AUTH + "ChangePassword", request, caller)).tokens


async def test_logout_all_ends_every_session_and_raises_the_epoch(auth: Any) -> None:
    user, tokens, caller = await signed_in(auth)
    other = (await auth.login()).tokens
    key = await auth.create_key(caller)
    answer = await auth.call(AUTH + "LogoutAll", auth_pb2.LogoutAllRequest(), caller)
    assert answer.sessions_ended == 2
    assert [await can_refresh(auth, each) for each in (tokens, other)] == [False, False]
    (raised,) = await auth.events_of(events_pb2.AuthEpochRaised)
    assert (raised.tenant_id, raised.user_id, raised.epoch, raised.reason) == (user.tenant_id, user.id, 1, "logout_all")
    ended = await auth.events_of(events_pb2.AuthSessionRevoked)
    assert {(event.session_id, event.reason) for event in ended} == {
        (tokens.session_id, "logout_all"),
        (other.session_id, "logout_all"),
    }
    assert await epochs(auth) == [(user.id, 1)]
    # A key stays good, and says under which epoch.
    assert (await auth.verify_key(key.secret)).epoch == 1
    assert claims((await auth.login()).tokens.access_token)["epoch"] == 1


async def test_an_api_key_cannot_log_its_owner_out(auth: Any) -> None:
    _, tokens, caller = await signed_in(auth)
    key = Principal(PrincipalKind.API_KEY, caller.subject, caller.tenant_id, credential_id=tokens.session_id)
    for method, request in (
        ("LogoutAll", auth_pb2.LogoutAllRequest()),
        ("ListSessions", auth_pb2.ListSessionsRequest()),
        ("RevokeSession", auth_pb2.RevokeSessionRequest(id=tokens.session_id)),
        ("UpdateMe", auth_pb2.UpdateMeRequest(name="x")),
        ("ChangePassword", auth_pb2.ChangePasswordRequest(current_password="x", new_password="y")),
    ):
        with pytest.raises(WireroomError) as refused:
            await auth.call(AUTH + method, request, key)
        assert (refused.value.kind, refused.value.code) == (ErrorKind.FORBIDDEN, "session_required")
    assert await can_refresh(auth, tokens)


async def test_password_change_keeps_the_callers_session_alone(auth: Any, password: str) -> None:
    user, tokens, caller = await signed_in(auth)
    other = (await auth.login()).tokens
    fresh = await change(auth, caller, password, NEW_PASSWORD)
    assert fresh.session_id == tokens.session_id
    assert claims(fresh.access_token)["epoch"] == 1
    assert claims(tokens.access_token)["epoch"] == 0
    assert not await can_refresh(auth, other)
    # The refresh token from before is no way in, but a browser tab that still holds it does not end the session either.
    assert not await can_refresh(auth, tokens)
    again = await auth.refresh(fresh.refresh_token)
    assert again.session_id == tokens.session_id
    with pytest.raises(WireroomError):
        await auth.login()
    assert (await auth.login(password=NEW_PASSWORD)).tokens.access_token
    (changed,) = await auth.events_of(events_pb2.AuthPasswordChanged)
    assert (changed.user_id, changed.via) == (user.id, "change")
    assert await epochs(auth) == [(user.id, 1)]


async def test_what_is_left_of_the_old_refresh_token_ends_the_session_after_the_grace(auth: Any, password: str) -> None:
    _, tokens, caller = await signed_in(auth)
    fresh = await change(auth, caller, password, NEW_PASSWORD)
    await auth.pass_time(11)
    assert not await can_refresh(auth, tokens)
    assert not await can_refresh(auth, fresh)
    assert len(await auth.events_of(events_pb2.AuthRefreshReuseDetected)) == 1


async def test_a_password_change_needs_the_present_one_and_a_good_new_one(auth: Any, password: str) -> None:
    _, tokens, caller = await signed_in(auth)
    refusals = []
    for current, new in (
        ("not the password", NEW_PASSWORD),
        (password, password),
        (password, "short"),
        (password, "password123456"),
        (password, "ada-example-12"),
    ):
        with pytest.raises(WireroomError) as refused:
            await change(auth, caller, current, new)
        refusals.append(refused.value.code)
    expected = ["current_password_wrong", "password_unchanged", "password_too_short", "password_common", "password_personal"]
    assert refusals == expected
    assert await epochs(auth) == []
    assert await can_refresh(auth, tokens)


async def test_a_stolen_session_is_no_way_to_guess_the_password(auth: Any) -> None:
    _, _, caller = await signed_in(auth)
    codes = []
    for _ in range(6):
        with pytest.raises(WireroomError) as refused:
            await change(auth, caller, "not the password", NEW_PASSWORD)
        codes.append(refused.value.code)
    assert codes == ["current_password_wrong"] * 5 + ["login_backoff"]


async def test_of_two_password_changes_at_once_one_counts(auth: Any, race: Any, password: str) -> None:
    _, _, caller = await signed_in(auth)
    outcomes = await race(
        "LOCK TABLE auth.users IN SHARE MODE",
        change(auth, caller, password, NEW_PASSWORD),
        change(auth, caller, password, "a quiet river at noon"),
    )
    failed = [outcome for outcome in outcomes if isinstance(outcome, WireroomError)]
    assert [error.kind for error in failed] == [ErrorKind.UNAUTHENTICATED]
    assert len(await auth.events_of(events_pb2.AuthPasswordChanged)) == 1


async def test_a_change_of_roles_voids_tokens_but_not_sessions(auth: Any) -> None:
    user, tokens, caller = await signed_in(auth)
    async with auth.database.tenant(caller.tenant()) as connection:
        raised = await raise_epoch(connection, caller.tenant(), caller.user_id(), "roles", auth.clock.now(), actor="admin")
    assert raised is not None
    assert (raised.epoch, raised.sessions_ended) == (1, 0)
    assert claims((await auth.refresh(tokens.refresh_token)).access_token)["epoch"] == 1
    assert await epochs(auth) == [(user.id, 1)]


@pytest.mark.parametrize("reason", ["disabled", "deleted"])
async def test_disabling_and_deleting_end_the_sessions(auth: Any, reason: str) -> None:
    user, tokens, caller = await signed_in(auth)
    async with auth.database.tenant(caller.tenant()) as connection:
        raised = await raise_epoch(connection, caller.tenant(), caller.user_id(), reason, auth.clock.now())
        if reason == "deleted":
            await connection.execute(text("DELETE FROM users WHERE id = :id"), {"id": caller.user_id()})
    assert raised is not None
    assert raised.sessions_ended == 1
    assert not await can_refresh(auth, tokens)
    # What a deleted user's tokens are worth is known after the user is gone.
    assert await epochs(auth) == [(user.id, 1)]


async def test_a_raise_for_a_user_of_another_tenant_does_nothing(auth: Any) -> None:
    _, tokens, caller = await signed_in(auth)
    other = await auth.add_tenant("other")
    async with auth.database.tenant(other) as connection:
        assert await raise_epoch(connection, other, caller.user_id(), "disabled", auth.clock.now()) is None
        assert await raise_epoch(connection, caller.tenant(), caller.user_id(), "disabled", auth.clock.now()) is None
    assert await epochs(auth) == []
    assert await can_refresh(auth, tokens)


async def test_a_tenants_epoch_stands_in_all_its_tokens(auth: Any) -> None:
    user, tokens, caller = await signed_in(auth)
    key = await auth.create_key(caller)
    assert claims(tokens.access_token)["tepoch"] == 0
    async with auth.database.tenant(caller.tenant()) as connection:
        raised = await raise_tenant_epoch(connection, caller.tenant(), auth.clock.now(), actor=user.id)
    assert raised is not None
    assert raised.epoch == 1
    assert claims((await auth.refresh(tokens.refresh_token)).access_token)["tepoch"] == 1
    assert (await auth.verify_key(key.secret)).tenant_epoch == 1
    (event,) = await auth.events_of(events_pb2.AuthEpochRaised)
    assert (event.tenant_id, event.user_id, event.epoch, event.reason) == (user.tenant_id, "", 1, "tenant")
    assert await epochs(auth) == [("", 1)]


async def test_raises_are_listed_as_long_as_older_tokens_live_and_then_purged(auth: Any) -> None:
    user, _, caller = await signed_in(auth)
    for _ in range(2):
        async with auth.database.tenant(caller.tenant()) as connection:
            await raise_epoch(connection, caller.tenant(), caller.user_id(), "roles", auth.clock.now())
    auth.clock.advance(1800)
    assert await epochs(auth) == [(user.id, 2)]
    (purge,) = (periodic for periodic in auth.service.periodic if periodic.name == "auth.purge")
    await purge.run()
    assert await epochs(auth) == [(user.id, 2)]
    auth.clock.advance(timedelta(minutes=6).total_seconds())
    assert await epochs(auth) == []
    await purge.run()
    async with auth.database.system() as connection:
        assert (await connection.execute(text("SELECT count(*) FROM epoch_raises"))).scalar_one() == 0


async def test_a_login_beside_logout_all_leaves_no_session_with_an_old_epoch(auth: Any, race: Any) -> None:
    user, _, caller = await signed_in(auth)
    outcomes = await race(
        "LOCK TABLE auth.sessions IN SHARE MODE",
        auth.login(),
        auth.call(AUTH + "LogoutAll", auth_pb2.LogoutAllRequest(), caller),
    )
    login = outcomes[0]
    current = dict(await epochs(auth))[user.id]
    # Either it came first and ended with the others, or it came after and has the new epoch.
    assert (claims(login.tokens.access_token)["epoch"] == current) == await can_refresh(auth, login.tokens)


async def test_a_name_can_be_changed_and_nothing_else(auth: Any) -> None:
    _, _, caller = await signed_in(auth)
    renamed = (await auth.call(AUTH + "UpdateMe", auth_pb2.UpdateMeRequest(name="  Ada L.  "), caller)).user
    assert (renamed.name, list(renamed.roles)) == ("Ada L.", ["Admin", "platform_admin"])
    same = (await auth.call(AUTH + "UpdateMe", auth_pb2.UpdateMeRequest(), caller)).user
    assert same.name == "Ada L."
    with pytest.raises(WireroomError) as refused:
        await auth.call(AUTH + "UpdateMe", auth_pb2.UpdateMeRequest(name="a\nb"), caller)
    assert refused.value.kind is ErrorKind.INVALID
    assert UUID(same.id) == caller.user_id()
