from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from gateway_rig import Rig, running
from gateway_tokens import SESSION, TENANT, USER

from wireroom_common.clock import ManualClock
from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_common.principal import Principal, PrincipalKind
from wireroom_common.testing import eventually
from wireroom_gateway.identity.revocations import Revocations
from wireroom_protos.auth.v1 import auth_pb2
from wireroom_protos.events.v1 import events_pb2

ROUTE = "/api/v1/documents"
KEY = {"authorization": "Bearer wr_abcdefgh_" + "x" * 43}
KEY_ID = "0198a000-0000-7000-8000-0000000000dd"
OTHER_USER = "0198a000-0000-7000-8000-0000000000ab"
OTHER_TENANT = "0198a000-0000-7000-8000-000000000002"
REASONS = ("logout_all", "password", "roles", "disabled", "deleted")


def raised(epoch: int = 1, reason: str = "logout_all", **changes: str) -> events_pb2.AuthEpochRaised:
    return events_pb2.AuthEpochRaised(
        **{"tenant_id": str(TENANT), "user_id": str(USER), "epoch": epoch, "reason": reason, **changes}
    )


async def status(rig: Rig, headers: dict[str, str]) -> int:
    async with rig.session.get(ROUTE, headers=headers) as reply:
        return reply.status


@asynccontextmanager
async def two_replicas(folder: Path, **options: Any) -> AsyncIterator[tuple[Rig, Rig]]:
    """Two gateways, each with its own memory; what one event tells is told to both."""
    (folder / "a").mkdir()
    (folder / "b").mkdir()
    async with running(folder / "a", **options) as first, running(folder / "b", **options) as second:
        yield first, second


@pytest.mark.parametrize("reason", REASONS)
async def test_every_replica_refuses_old_tokens_within_two_seconds_of_the_event(work_dir: Path, reason: str) -> None:
    async with two_replicas(work_dir) as replicas:
        old = [rig.bearer("docs:read", epoch=0) for rig in replicas]
        assert [await status(rig, headers) for rig, headers in zip(replicas, old, strict=True)] == [200, 200]
        await asyncio.gather(*(rig.publish(raised(reason=reason)) for rig in replicas))

        async def refused_everywhere() -> bool:
            return [await status(rig, headers) for rig, headers in zip(replicas, old, strict=True)] == [401, 401]

        await eventually(refused_everywhere, within=2, what="both replicas refuse the old token")
        # What was issued since, and what others hold, stays good.
        for rig in replicas:
            assert await status(rig, rig.bearer("docs:read", epoch=1)) == 200
            assert await status(rig, rig.bearer("docs:read", epoch=0, sub=OTHER_USER)) == 200


async def test_a_tenants_epoch_voids_the_tokens_of_all_its_users(rig: Rig) -> None:
    await rig.publish(raised(2, "tenant", user_id=""))
    assert await status(rig, rig.bearer("docs:read", tepoch=1)) == 401
    assert await status(rig, rig.bearer("docs:read")) == 401
    assert await status(rig, rig.bearer("docs:read", tepoch=1, sub=OTHER_USER)) == 401
    assert await status(rig, rig.bearer("docs:read", tepoch=2)) == 200
    assert await status(rig, rig.bearer("docs:read", tid=OTHER_TENANT)) == 200


async def test_a_late_event_with_a_lower_epoch_changes_nothing(rig: Rig) -> None:
    for epoch in (3, 1, 2):
        await rig.publish(raised(epoch))
    assert await status(rig, rig.bearer("docs:read", epoch=2)) == 401
    assert await status(rig, rig.bearer("docs:read", epoch=3)) == 200


async def test_with_the_bus_down_replicas_learn_of_it_within_thirty_seconds(work_dir: Path) -> None:
    answer = auth_pb2.ListRevocationsResponse()
    clock = ManualClock(datetime.now(UTC))

    async def revocations(_request: Any) -> auth_pb2.ListRevocationsResponse:
        return answer

    async with two_replicas(work_dir, answers={"ListRevocations": revocations}, clock=clock) as replicas:
        old = [rig.bearer("docs:read") for rig in replicas]
        answer.epochs.add(tenant_id=str(TENANT), user_id=str(USER), epoch=1).raised_at.FromDatetime(clock.now())
        answer.epochs.add(tenant_id=OTHER_TENANT, epoch=4).raised_at.FromDatetime(clock.now())
        for rig, headers in zip(replicas, old, strict=True):
            await rig.service.periodic[0].run()
            assert await status(rig, headers) == 200
        seconds = 0
        while [await status(rig, headers) for rig, headers in zip(replicas, old, strict=True)] != [401, 401]:
            clock.advance(1)
            seconds += 1
            assert seconds <= 25, "not within 30 seconds, less the 5 that one failed call may take"
            for rig in replicas:
                await rig.service.periodic[0].run()
        assert await status(replicas[0], replicas[0].bearer("docs:read", tid=OTHER_TENANT, tepoch=3)) == 401


async def test_what_was_raised_before_the_start_is_read_at_the_start(work_dir: Path) -> None:
    async def revocations(_request: Any) -> auth_pb2.ListRevocationsResponse:
        answer = auth_pb2.ListRevocationsResponse()
        answer.epochs.add(tenant_id=str(TENANT), user_id=str(USER), epoch=1).raised_at.FromDatetime(datetime.now(UTC))
        return answer

    async with running(work_dir, answers={"ListRevocations": revocations}) as rig:
        assert await status(rig, rig.bearer("docs:read")) == 401
        assert await status(rig, rig.bearer("docs:read", epoch=1)) == 200


async def test_a_cached_key_is_asked_for_again_when_its_owners_epoch_rises(rig: Rig) -> None:
    rights = ["docs:read"]
    epoch = 0

    async def verify(_request: Any) -> auth_pb2.VerifyKeyResponse:
        return auth_pb2.VerifyKeyResponse(
            key_id=KEY_ID, tenant_id=str(TENANT), user_id=str(USER), permissions=rights, epoch=epoch, tenant_epoch=epoch
        )

    rig.neighbours.answers["VerifyKey"] = verify
    assert [await status(rig, KEY) for _ in range(2)] == [200, 200]
    rights, epoch = [], 1
    assert await status(rig, KEY) == 200
    await rig.publish(raised(reason="roles"))
    assert [await status(rig, KEY) for _ in range(2)] == [403, 403]
    assert len(rig.neighbours.called("VerifyKey")) == 2
    rights, epoch = ["docs:read"], 2
    await rig.publish(raised(2, "tenant", user_id=""))
    assert [await status(rig, KEY) for _ in range(2)] == [200, 200]
    assert len(rig.neighbours.called("VerifyKey")) == 3


async def test_the_key_of_a_disabled_owner_ends_with_the_event(rig: Rig) -> None:
    async def verify(_request: Any) -> auth_pb2.VerifyKeyResponse:
        return auth_pb2.VerifyKeyResponse(key_id=KEY_ID, tenant_id=str(TENANT), user_id=str(USER), permissions=["docs:read"])

    async def refuse(_request: Any) -> Any:
        raise WireroomError(ErrorKind.UNAUTHENTICATED, "api_key_invalid", "No such key.")

    rig.neighbours.answers["VerifyKey"] = verify
    assert await status(rig, KEY) == 200
    rig.neighbours.answers["VerifyKey"] = refuse
    assert await status(rig, KEY) == 200
    await rig.publish(raised(reason="disabled"))
    assert await status(rig, KEY) == 401


@pytest.mark.parametrize(
    "changes", [{"epoch": -1}, {"epoch": True}, {"epoch": "0"}, {"tepoch": 1.0}, {"tepoch": 2**40}, {"tepoch": []}]
)
async def test_epochs_that_are_no_counts_are_refused(rig: Rig, changes: dict[str, Any]) -> None:
    assert await status(rig, rig.bearer("docs:read", **changes)) == 401


@pytest.mark.parametrize("credential", ["x", '"', '"wr_abcdefgh_' + "x" * 43 + '"', "WR_abc", "wr", "sk-1234", "a.b"])
async def test_what_is_neither_token_nor_key_is_told_so(rig: Rig, credential: str) -> None:
    async with rig.session.get(ROUTE, headers={"authorization": f"Bearer {credential}"}) as reply:
        problem = await reply.json(content_type=None)
        assert reply.status == 401
        assert "neither an access token" in problem["detail"]
        assert "nor an API key" in problem["detail"]


def principal(**changes: Any) -> Principal:
    known = {"subject": str(USER), "tenant_id": TENANT, "credential_id": str(SESSION), **changes}
    return Principal(PrincipalKind.USER, **known)


def memory(clock: ManualClock, max_entries: int = 100) -> Revocations:
    return Revocations(None, clock, remember_seconds=100, max_entries=max_entries)  # type: ignore[arg-type]


def test_watchers_are_told_once_when_their_credential_becomes_void() -> None:
    revocations = memory(ManualClock())
    told: list[str] = []
    watched = {
        "session": principal(subject=OTHER_USER),
        "user": principal(credential_id="s2"),
        "tenant": principal(credential_id="s3", subject="u3"),
        "newer": principal(credential_id="s4", subject="u4", tenant_epoch=2),
        "stranger": principal(credential_id="s5", subject="u5", tenant_id=UUID(OTHER_TENANT)),
        "gone": principal(credential_id="s6"),
    }
    ends = {name: revocations.watch(who, lambda name=name: told.append(name)) for name, who in watched.items()}  # type: ignore[misc]
    ends["gone"]()
    revocations.add("unknown")
    revocations.raise_epoch(str(TENANT), "somebody", 9)
    assert told == []
    revocations.add(str(SESSION))
    assert told == ["session"]
    revocations.raise_epoch(str(TENANT), str(USER), 1)
    assert told == ["session", "user"]
    revocations.raise_epoch(str(TENANT), "", 2)
    assert told == ["session", "user", "tenant"]
    revocations.raise_epoch(str(TENANT), "", 2)
    revocations.add(str(SESSION))
    revocations.raise_epoch(str(TENANT), "", 3)
    assert told == ["session", "user", "tenant", "newer"]
    for end in ends.values():
        end()
    assert revocations._watches == {}  # noqa: SLF001  nothing may be left behind
    assert revocations._watched == {}  # noqa: SLF001


def test_who_watches_a_void_credential_is_told_at_once_and_a_failing_watcher_harms_nobody() -> None:
    revocations = memory(ManualClock())
    told: list[int] = []

    def fail() -> None:
        raise RuntimeError("socket gone")

    revocations.watch(principal(), fail)
    revocations.watch(principal(), lambda: told.append(1))
    revocations.add(str(SESSION))
    assert told == [1]
    revocations.watch(principal(), lambda: told.append(2))
    assert told == [1, 2]


def test_the_memory_of_epochs_is_bounded_in_time_and_size() -> None:
    clock = ManualClock()
    revocations = memory(clock, max_entries=3)
    revocations.raise_epoch(str(TENANT), "old", 1, clock.now() - timedelta(seconds=101))
    assert not revocations.is_outdated(principal(subject="old"))
    for name in "abcd":
        revocations.raise_epoch(str(TENANT), name, 1)
    assert [revocations.is_outdated(principal(subject=name)) for name in "abcd"] == [False, True, True, True]
    clock.advance(101)
    revocations.raise_epoch(str(TENANT), "e", 1)
    assert [revocations.is_outdated(principal(subject=name)) for name in "bcde"] == [False, False, False, True]
