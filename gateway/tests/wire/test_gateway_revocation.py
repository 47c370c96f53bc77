from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from gateway_rig import Rig, running
from gateway_tokens import SESSION, TENANT, USER, Issuer

from wireroom_common.clock import ManualClock
from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_gateway.identity.revocations import Revocations
from wireroom_protos.auth.v1 import auth_pb2
from wireroom_protos.events.v1 import events_pb2

ROUTE = "/api/v1/documents"
KEY_ID = "0198a000-0000-7000-8000-0000000000dd"
KEY = {"authorization": "Bearer wr_abcdefgh_" + "x" * 43}


async def status(rig: Rig, headers: dict[str, str]) -> int:
    async with rig.session.get(ROUTE, headers=headers) as reply:
        return reply.status


async def accept_key(_request: Any) -> auth_pb2.VerifyKeyResponse:
    return auth_pb2.VerifyKeyResponse(key_id=KEY_ID, tenant_id=str(TENANT), user_id=str(USER), permissions=["docs:read"])


async def test_a_session_is_refused_from_the_broadcast_on(rig: Rig) -> None:
    headers = rig.bearer("docs:read")
    other = rig.bearer("docs:read", sid="0198a000-0000-7000-8000-0000000000ee")
    assert await status(rig, headers) == 200
    await rig.publish(events_pb2.AuthSessionRevoked(user_id=str(USER), session_id=str(SESSION), reason="logout"))
    assert await status(rig, headers) == 401
    # Another token of the same session is refused, too; other sessions are not.
    assert await status(rig, rig.bearer("docs:read", jti="another")) == 401
    assert await status(rig, other) == 200


async def test_what_the_broadcast_missed_is_read_at_the_start(work_dir: Path) -> None:
    async def revocations(_request: Any) -> auth_pb2.ListRevocationsResponse:
        entry = auth_pb2.Revocation(credential_id=str(SESSION))
        entry.revoked_at.FromDatetime(datetime.now(UTC))
        return auth_pb2.ListRevocationsResponse(revocations=[entry])

    async with running(work_dir, answers={"ListRevocations": revocations}) as rig:
        assert await status(rig, rig.bearer("docs:read")) == 401
        assert await status(rig, rig.bearer("docs:read", sid="0198a000-0000-7000-8000-0000000000ee")) == 200


async def test_without_keys_from_auth_tokens_are_503_and_the_gateway_is_not_ready(work_dir: Path) -> None:
    async def away(_request: Any) -> Any:
        raise WireroomError(ErrorKind.UNAVAILABLE, "database_unavailable", "Try again.")

    async with running(work_dir, answers={"GetJwks": away, "ListRevocations": away}) as rig:
        assert await status(rig, rig.bearer("docs:read")) == 503
        async with rig.session.get("/ready") as reply:
            assert reply.status == 503
        async with rig.session.get("/health/live") as reply:
            assert reply.status == 200


async def test_an_api_key_is_asked_for_once_and_dropped_by_the_event(rig: Rig) -> None:
    rig.neighbours.answers["VerifyKey"] = accept_key
    assert [await status(rig, KEY) for _ in range(3)] == [200, 200, 200]
    assert len(rig.neighbours.called("VerifyKey")) == 1
    assert rig.neighbours.called("ListDocuments")[0].principal.credential_id == KEY_ID
    await rig.publish(events_pb2.AuthApiKeyRevoked(key_id=KEY_ID, owner_id=str(USER)))
    assert await status(rig, KEY) == 401


async def test_a_refused_key_is_not_asked_for_again_at_once(rig: Rig) -> None:
    async def refuse(_request: Any) -> Any:
        raise WireroomError(ErrorKind.UNAUTHENTICATED, "api_key_invalid", "No such key.")

    rig.neighbours.answers["VerifyKey"] = refuse
    assert [await status(rig, KEY) for _ in range(3)] == [401, 401, 401]
    assert len(rig.neighbours.called("VerifyKey")) == 1


async def test_made_up_keys_do_not_push_a_good_one_out(work_dir: Path) -> None:
    async def answer(request: auth_pb2.VerifyKeyRequest) -> auth_pb2.VerifyKeyResponse:
        if request.secret != KEY["authorization"].removeprefix("Bearer "):
            raise WireroomError(ErrorKind.UNAUTHENTICATED, "api_key_invalid", "No such key.")
        return await accept_key(request)

    async with running(work_dir, answers={"VerifyKey": answer}, key_cache_size=5) as rig:
        assert await status(rig, KEY) == 200
        for number in range(20):
            assert await status(rig, {"authorization": f"Bearer wr_abcdefgh_{number:043d}"}) == 401
        asked = len(rig.neighbours.called("VerifyKey"))
        assert await status(rig, KEY) == 200
        assert len(rig.neighbours.called("VerifyKey")) == asked


async def test_a_key_that_cannot_be_checked_is_503_and_not_remembered(rig: Rig) -> None:
    async def away(_request: Any) -> Any:
        raise WireroomError(ErrorKind.UNAVAILABLE, "database_unavailable", "Try again.")

    rig.neighbours.answers["VerifyKey"] = away
    assert await status(rig, KEY) == 503
    rig.neighbours.answers["VerifyKey"] = accept_key
    assert await status(rig, KEY) == 200


async def test_an_expired_key_is_refused_although_it_is_cached(rig: Rig) -> None:
    async def expired(request: Any) -> auth_pb2.VerifyKeyResponse:
        answer = await accept_key(request)
        answer.expires_at.FromDatetime(datetime.now(UTC) - timedelta(seconds=1))
        return answer

    rig.neighbours.answers["VerifyKey"] = expired
    assert await status(rig, KEY) == 401


async def test_a_new_signing_key_is_found_without_load_on_auth(work_dir: Path) -> None:
    clock = ManualClock(datetime.now(UTC))
    async with running(work_dir, clock=clock) as rig:
        renewed = Issuer("key-2")
        rig.issuer.kid, rig.issuer.private = renewed.kid, renewed.private
        # An unknown key id is looked up at most every 5 s: rubbish must not become calls.
        assert [await status(rig, rig.bearer("docs:read", jti=str(number))) for number in range(5)] == [401] * 5
        assert len(rig.neighbours.called("GetJwks")) == 1
        clock.advance(6)
        assert await status(rig, rig.bearer("docs:read")) == 200
        assert len(rig.neighbours.called("GetJwks")) == 2


def test_the_memory_of_revocations_is_bounded_in_time_and_size() -> None:
    clock = ManualClock()
    revocations = Revocations(None, clock, remember_seconds=100, max_entries=3)  # type: ignore[arg-type]
    revocations.add("a")
    clock.advance(60)
    revocations.add("b", clock.now() - timedelta(seconds=90))
    revocations.add("c", clock.now() - timedelta(seconds=101))
    assert [revocations.is_revoked(name) for name in "abc"] == [True, True, False]
    clock.advance(10)
    assert [revocations.is_revoked(name) for name in "abc"] == [True, False, False]
    clock.advance(30)
    assert not revocations.is_revoked("a")
    for name in "defgh":
        revocations.add(name)
    assert len(revocations) == 3
    assert revocations.is_revoked("h")
