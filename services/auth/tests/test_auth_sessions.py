from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from sqlalchemy import text

from wireroom_auth.adapters import sessions_sql
from wireroom_common.clock import ManualClock
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


async def test_fifty_parallel_refreshes_on_two_replicas_get_one_successor(make_auth: Any) -> None:
    auth, replica = await make_auth(refresh_grace_seconds=30), await make_auth(refresh_grace_seconds=30)
    tokens, _ = await signed_in(auth)
    answers = await asyncio.gather(*((auth, replica)[n % 2].refresh(tokens.refresh_token) for n in range(50)))
    assert len({answer.refresh_token for answer in answers}) == 1
    async with auth.database.system() as connection:
        assert (await connection.execute(text("SELECT count(*) FROM refresh_tokens"))).scalar_one() == 2
    assert (await auth.refresh(answers[0].refresh_token)).session_id == tokens.session_id


async def test_reuse_inside_the_grace_is_answered_and_after_it_kills_the_session(make_auth: Any) -> None:
    auth = await make_auth(refresh_grace_seconds=30)
    tokens, caller = await signed_in(auth)
    successor = await auth.refresh(tokens.refresh_token)
    await auth.pass_time(15)
    assert (await auth.refresh(tokens.refresh_token)).refresh_token == successor.refresh_token
    await auth.pass_time(16)
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
    (purge,) = (periodic for periodic in auth.service.periodic if periodic.name == "auth.purge")
    await auth.pass_time(3600)
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


async def test_skew_of_a_minute_between_hosts_changes_nothing(make_auth: Any) -> None:
    auth = await make_auth(refresh_grace_seconds=30)
    tokens, _ = await signed_in(auth)
    replicas = [auth]
    for skew in (-60, 60):
        clock = ManualClock(auth.clock.now() + timedelta(seconds=skew))
        replicas.append(await make_auth(infra=type(auth.infra)(auth.database, clock=clock), refresh_grace_seconds=30))
    for first in replicas:
        answers = [await first.refresh(tokens.refresh_token)]
        answers += [await other.refresh(tokens.refresh_token) for other in replicas]
        assert len({answer.refresh_token for answer in answers}) == 1
        tokens = answers[0]
    # A token that is really old is refused by all of them.
    spent, tokens = tokens, await auth.refresh(tokens.refresh_token)
    await auth.pass_time(31)
    await refused_refresh(replicas[1], spent.refresh_token)
    await refused_refresh(replicas[2], tokens.refresh_token)
    assert len(await auth.events_of(events_pb2.AuthSessionRevoked)) == 1


async def test_of_two_tokens_made_in_the_same_second_the_older_is_refused(auth: Any) -> None:
    # The clock stands still here: only the counter tells them apart.
    tokens, _ = await signed_in(auth)
    older = await auth.refresh(tokens.refresh_token)
    newer = await auth.refresh(older.refresh_token)
    newest = await auth.refresh(newer.refresh_token)
    await refused_refresh(auth, older.refresh_token)
    assert (await auth.refresh(newest.refresh_token)).session_id == tokens.session_id


async def test_reuse_after_the_grace_is_audited(auth: Any) -> None:
    tokens, caller = await signed_in(auth)
    await auth.refresh(tokens.refresh_token)
    await auth.pass_time(11)
    await refused_refresh(auth, tokens.refresh_token)
    (fact,) = [event for event in await auth.events_of(events_pb2.AuditRecorded) if event.action == "refresh_token.reused"]
    assert (fact.outcome, json.loads(fact.details_json)["user_id"]) == ("denied", caller.subject)


async def listed(auth: Any, caller: Principal, **page: Any) -> Any:
    return await auth.call(AUTH + "ListSessions", auth_pb2.ListSessionsRequest(**page), caller)


async def test_sessions_are_listed_with_what_is_known_of_them(auth: Any) -> None:
    tokens, caller = await signed_in(auth)
    auth.clock.advance(60)
    await auth.login(client_ip="203.0.113.9", user_agent="  Browser\n/1 " + "x" * 1000)
    auth.clock.advance(60)
    request = auth_pb2.RefreshRequest(refresh_token=tokens.refresh_token, client_ip="198.51.100.7")
    await auth.call(AUTH + "Refresh", request)
    newer, current = (await listed(auth, caller)).sessions
    assert (newer.client_ip, newer.current, list(newer.methods)) == ("203.0.113.9", False, ["password"])
    assert newer.user_agent.startswith("Browser/1 xxx")
    assert len(newer.user_agent) <= 300
    assert newer.last_used_at == newer.created_at
    assert (current.id, current.current, current.client_ip) == (tokens.session_id, True, "198.51.100.7")
    assert current.last_used_at.ToSeconds() - current.created_at.ToSeconds() == 120


async def test_sessions_come_in_pages_without_the_ended_ones(auth: Any) -> None:
    _, caller = await signed_in(auth)
    ids = [(await auth.login()).tokens.session_id for _ in range(4)]
    await auth.call(AUTH + "RevokeSession", auth_pb2.RevokeSessionRequest(id=ids[1]), caller)
    first = await listed(auth, caller, page_size=2)
    second = await listed(auth, caller, page_size=2, page_token=first.next_page_token)
    assert [session.id for session in (*first.sessions, *second.sessions)] == [ids[3], ids[2], ids[0], caller.credential_id]
    assert second.next_page_token == ""


async def test_a_session_of_somebody_else_is_not_to_be_found(auth: Any) -> None:
    tokens, caller = await signed_in(auth)
    colleague = await auth.add_user("bob@example.org", "Admin")
    stranger = await auth.add_user("eve@example.org", "Admin", tenant_id=await auth.add_tenant("other"))
    for other in (colleague, stranger):
        as_other = replace(other, credential_id=str(uuid4()))
        with pytest.raises(WireroomError) as refused:
            await auth.call(AUTH + "RevokeSession", auth_pb2.RevokeSessionRequest(id=tokens.session_id), as_other)
        assert refused.value.kind is ErrorKind.NOT_FOUND
        assert list((await listed(auth, as_other)).sessions) == []
    assert [session.id for session in (await listed(auth, caller)).sessions] == [tokens.session_id]


async def test_an_ended_session_of_ones_own_is_gone_at_the_second_try(auth: Any) -> None:
    _, caller = await signed_in(auth)
    other = (await auth.login()).tokens
    request = auth_pb2.RevokeSessionRequest(id=other.session_id)
    await auth.call(AUTH + "RevokeSession", request, caller)
    await refused_refresh(auth, other.refresh_token)
    assert await revocations(auth) == [other.session_id]
    with pytest.raises(WireroomError) as refused:
        await auth.call(AUTH + "RevokeSession", request, caller)
    assert refused.value.code == "session_not_found"


async def test_beyond_a_hundred_sessions_the_oldest_ends(auth: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions_sql, "MAX_LIVE_SESSIONS", 3)
    tokens, caller = await signed_in(auth)
    ids = [(await auth.login()).tokens.session_id for _ in range(3)]
    await refused_refresh(auth, tokens.refresh_token)
    assert [session.id for session in (await listed(auth, caller)).sessions] == ids[::-1]
