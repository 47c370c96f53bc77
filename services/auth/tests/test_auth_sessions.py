from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from sqlalchemy import text

from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_common.principal import Principal, PrincipalKind
from wireroom_protos.auth.v1 import auth_pb2
from wireroom_protos.events.v1 import events_pb2

AUTH = "/wireroom_protos.auth.v1.AuthService/"


async def signed_in(auth: Any) -> tuple[Any, Principal]:
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
    return tokens, caller


async def refused_refresh(auth: Any, token: str) -> WireroomError:
    with pytest.raises(WireroomError) as refused:
        await auth.refresh(token)
    assert (refused.value.kind, refused.value.code) == (ErrorKind.UNAUTHENTICATED, "refresh_token_invalid")
    return refused.value


async def revocations(auth: Any, since: Timestamp | None = None) -> list[str]:
    request = auth_pb2.ListRevocationsRequest(since=since)
    return [found.credential_id for found in (await auth.call(AUTH + "ListRevocations", request)).revocations]


async def test_refresh_rotates_within_the_same_session(auth: Any) -> None:
    tokens, _ = await signed_in(auth)
    auth.clock.advance(60)
    second = await auth.refresh(tokens.refresh_token)
    third = await auth.refresh(second.refresh_token)
    assert len({tokens.refresh_token, second.refresh_token, third.refresh_token}) == 3
    assert len({tokens.access_token, second.access_token, third.access_token}) == 3
    assert {second.session_id, third.session_id} == {tokens.session_id}


async def test_twenty_parallel_refreshes_get_one_successor(auth: Any, make_auth: Any) -> None:
    tokens, _ = await signed_in(auth)
    replica = await make_auth()
    answers = await asyncio.gather(*((auth, replica)[n % 2].refresh(tokens.refresh_token) for n in range(20)))
    assert len({answer.refresh_token for answer in answers}) == 1
    async with auth.database.system() as connection:
        assert (await connection.execute(text("SELECT count(*) FROM refresh_tokens"))).scalar_one() == 2
    assert (await auth.refresh(answers[0].refresh_token)).session_id == tokens.session_id


async def test_reuse_inside_the_grace_is_answered_and_after_it_kills_the_session(auth: Any) -> None:
    tokens, caller = await signed_in(auth)
    successor = await auth.refresh(tokens.refresh_token)
    auth.clock.advance(10)
    assert (await auth.refresh(tokens.refresh_token)).refresh_token == successor.refresh_token
    auth.clock.advance(0.1)
    await refused_refresh(auth, tokens.refresh_token)
    await refused_refresh(auth, successor.refresh_token)
    (reuse,) = await auth.events_of(events_pb2.AuthRefreshReuseDetected)
    (revoked,) = await auth.events_of(events_pb2.AuthSessionRevoked)
    assert (reuse.user_id, reuse.session_id) == (caller.subject, tokens.session_id)
    assert (revoked.session_id, revoked.reason) == (tokens.session_id, "refresh_reuse")
    assert await revocations(auth) == [tokens.session_id]


async def test_older_token_whose_successor_is_spent_is_refused_even_inside_the_grace(auth: Any) -> None:
    tokens, _ = await signed_in(auth)
    second = await auth.refresh(tokens.refresh_token)
    third = await auth.refresh(second.refresh_token)
    await refused_refresh(auth, tokens.refresh_token)
    assert (await auth.refresh(third.refresh_token)).session_id == tokens.session_id
    assert await auth.events_of(events_pb2.AuthSessionRevoked) == []


async def test_session_ends_at_its_absolute_expiry_however_often_refreshed(make_auth: Any) -> None:
    auth = await make_auth(refresh_token_seconds=3600)
    tokens, _ = await signed_in(auth)
    auth.clock.advance(3000)
    tokens = await auth.refresh(tokens.refresh_token)
    assert tokens.expires_in == 600
    auth.clock.advance(600)
    await refused_refresh(auth, tokens.refresh_token)


async def test_logout_ends_the_session_once(auth: Any) -> None:
    tokens, caller = await signed_in(auth)
    for _ in range(2):
        await auth.call(AUTH + "Logout", auth_pb2.LogoutRequest(), caller)
    await refused_refresh(auth, tokens.refresh_token)
    (event,) = await auth.events_of(events_pb2.AuthSessionRevoked)
    assert (event.session_id, event.user_id, event.reason) == (tokens.session_id, caller.subject, "logout")
    assert await revocations(auth) == [tokens.session_id]


async def test_logout_with_an_api_key_is_refused(auth: Any) -> None:
    tokens, caller = await signed_in(auth)
    key = Principal(PrincipalKind.API_KEY, caller.subject, caller.tenant_id, credential_id=tokens.session_id)
    with pytest.raises(WireroomError) as refused:
        await auth.call(AUTH + "Logout", auth_pb2.LogoutRequest(), key)
    assert (refused.value.kind, refused.value.code) == (ErrorKind.FORBIDDEN, "session_required")
    assert (await auth.refresh(tokens.refresh_token)).session_id == tokens.session_id


async def test_nobody_ends_the_session_of_another_user(auth: Any) -> None:
    tokens, _ = await signed_in(auth)
    colleague = await auth.add_user("bob@example.org", "Admin")
    stranger = await auth.add_user("eve@example.org", "Admin", tenant_id=await auth.add_tenant("other"))
    for other in (colleague, stranger):
        caller = Principal(PrincipalKind.USER, other.subject, other.tenant_id, credential_id=tokens.session_id)
        await auth.call(AUTH + "Logout", auth_pb2.LogoutRequest(), caller)
    assert (await auth.refresh(tokens.refresh_token)).session_id == tokens.session_id


async def test_disabled_user_cannot_refresh(auth: Any) -> None:
    tokens, caller = await signed_in(auth)
    async with auth.database.tenant(caller.tenant_id) as connection:
        await connection.execute(text("UPDATE users SET disabled_at = now()"))
    await refused_refresh(auth, tokens.refresh_token)


async def test_refresh_takes_up_changed_roles(auth: Any) -> None:
    tokens, caller = await signed_in(auth)
    async with auth.database.tenant(caller.tenant_id) as connection:
        await connection.execute(text("UPDATE users SET roles = '{Viewer}', epoch = 1"))
    fresh = await auth.refresh(tokens.refresh_token)
    # The middle part of a JWS is its payload.
    import base64  # noqa: PLC0415  only here
    import json  # noqa: PLC0415  only here

    body = fresh.access_token.split(".")[1]
    claims = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    assert (claims["roles"], claims["epoch"]) == (["Viewer"], 1)
    assert "llm:invoke" not in claims["perms"]


async def test_rubbish_is_not_a_refresh_token(auth: Any) -> None:
    for token in ("", "x", "wr_rt_" + "A" * 43, "wr_rt_" + "A" * 42 + "\x00", "wr_rt_" + "A" * 100_000):
        await refused_refresh(auth, token)


async def test_access_token_and_api_key_are_not_refresh_tokens(auth: Any) -> None:
    tokens, caller = await signed_in(auth)
    key = await auth.create_key(caller)
    await refused_refresh(auth, tokens.access_token)
    await refused_refresh(auth, key.secret)
    with pytest.raises(WireroomError) as refused:
        await auth.verify_key(tokens.refresh_token)
    assert refused.value.code == "api_key_invalid"


async def test_revocations_older_than_any_access_token_are_not_listed(auth: Any) -> None:
    tokens, caller = await signed_in(auth)
    key = await auth.create_key(caller)
    await auth.call(AUTH + "Logout", auth_pb2.LogoutRequest(), caller)
    auth.clock.advance(600)
    await auth.call("/wireroom_protos.auth.v1.ApiKeyService/RevokeKey", auth_pb2.RevokeKeyRequest(id=key.key.id), caller)
    assert await revocations(auth) == [key.key.id, tokens.session_id]
    since = Timestamp()
    since.FromDatetime(auth.clock.now())
    assert await revocations(auth, since) == [key.key.id]
    auth.clock.advance(1800 + 121)
    assert await revocations(auth) == []


async def test_revocations_since_a_moment_that_is_none_is_invalid(auth: Any) -> None:
    with pytest.raises(WireroomError) as refused:
        await revocations(auth, Timestamp(seconds=2**60))
    assert refused.value.kind is ErrorKind.INVALID


async def test_purge_removes_ended_sessions_and_old_successors_only(auth: Any) -> None:
    tokens, _ = await signed_in(auth)
    other = (await auth.login()).tokens
    await auth.refresh(tokens.refresh_token)
    (purge,) = auth.service.periodic
    auth.clock.advance(3600)
    await purge.run()
    async with auth.database.system() as connection:
        assert (await connection.execute(text("SELECT count(*) FROM sessions"))).scalar_one() == 2
        sealed = "SELECT count(*) FROM refresh_tokens WHERE successor IS NOT NULL"
        assert (await connection.execute(text(sealed))).scalar_one() == 0
    # A spent token is still told from rubbish.
    await refused_refresh(auth, tokens.refresh_token)
    assert len(await auth.events_of(events_pb2.AuthRefreshReuseDetected)) == 1
    auth.clock.advance(timedelta(days=2).total_seconds())
    await purge.run()
    async with auth.database.system() as connection:
        left = (await connection.execute(text("SELECT id FROM sessions"))).scalars().all()
        assert [str(session) for session in left] == [other.session_id]
    auth.clock.advance(timedelta(days=30).total_seconds())
    await purge.run()
    async with auth.database.system() as connection:
        for table in ("sessions", "refresh_tokens"):
            assert (await connection.execute(text(f"SELECT count(*) FROM {table}"))).scalar_one() == 0  # noqa: S608  literal
