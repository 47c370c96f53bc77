"""Both stores in simulated time against one naive model: no window ever holds more than the quota, and none is refused without need."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

import pytest
from gateway_rig import new_redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis

from wireroom_common.clock import ManualClock
from wireroom_gateway.limits.memory import MemoryCounterStore
from wireroom_gateway.limits.policy import Limit
from wireroom_gateway.limits.redis import RedisCounterStore
from wireroom_gateway.limits.sliding import MICROSECONDS, SLOTS
from wireroom_gateway.limits.store import Counter, CounterStore

WINDOW = 60
WINDOW_US = WINDOW * MICROSECONDS
KINDS = ("memory", "redis")
# Any time does, as long as it is one of the magnitude that the server's clock has.
START = 1_800_000_000 * MICROSECONDS

Wait = Callable[[int], Awaitable[None]]


class SimulatedRedisStore(RedisCounterStore):
    """The script as it is, but for where it reads the time."""

    CLOCK = "local now = tonumber(redis.call('GET', '{rl}:now'))\n"


@asynccontextmanager
async def simulated(kind: str, url: str) -> AsyncIterator[tuple[CounterStore, Wait]]:
    """A store, and how to let time pass (microseconds)."""
    if kind == "memory":
        clock = ManualClock()

        async def advance(microseconds: int) -> None:
            clock.advance(microseconds / MICROSECONDS)

        yield MemoryCounterStore(clock), advance
        return
    client: Redis = new_redis(url)
    await client.flushall()
    await client.set("{rl}:now", START)

    async def add(microseconds: int) -> None:
        await client.incrby("{rl}:now", microseconds)

    store = SimulatedRedisStore(client)
    yield store, add
    await store.close()
    await client.aclose()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("quota", [1, 3, 1_000])
async def test_at_the_edge_of_the_window_a_microsecond_decides(kind: str, quota: int, valkey_url: str) -> None:
    async with simulated(kind, valkey_url) as (store, wait):
        requests = [Counter("a", Limit(quota, WINDOW))]
        assert all(verdict.allowed for verdict in await asyncio.gather(*(store.take(requests) for _ in range(quota))))
        await wait(WINDOW_US - 1)
        refused = await store.take(requests)
        assert not refused.allowed
        assert 0 < refused.states[0].reset <= 0.000_002
        await wait(1)
        assert (
            sum(verdict.allowed for verdict in await asyncio.gather(*(store.take(requests) for _ in range(quota + 1)))) == quota
        )


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    quotas=st.tuples(st.integers(1, 6), st.integers(1, 9)),
    requests=st.lists(st.tuples(st.integers(0, WINDOW_US // 3), st.sampled_from([(0,), (1,), (0, 1)])), min_size=1, max_size=60),
)
def test_exact_windows_are_those_of_the_naive_model(
    kind: str, valkey_url: str, quotas: tuple[int, int], requests: Sequence[tuple[int, tuple[int, ...]]]
) -> None:
    async def play() -> None:
        async with simulated(kind, valkey_url) as (store, wait):
            passed: tuple[list[int], list[int]] = ([], [])
            now = 0
            for pause, rows in requests:
                now += pause
                await wait(pause)
                inside = [sum(at > now - WINDOW_US for at in passed[row]) for row in rows]
                expected = all(count < quotas[row] for count, row in zip(inside, rows, strict=True))
                verdict = await store.take([Counter(f"row{row}", Limit(quotas[row], WINDOW)) for row in rows])
                assert verdict.allowed is expected
                for row, count, state in zip(rows, inside, verdict.states, strict=True):
                    assert state.remaining == max(0, quotas[row] - count - expected)
                    if expected:
                        passed[row].append(now)

    asyncio.run(play())


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    quota=st.integers(1_001, 1_100),
    bursts=st.lists(st.tuples(st.integers(0, WINDOW_US // 2), st.integers(1, 500)), min_size=1, max_size=8),
)
def test_rounded_windows_err_to_the_safe_side_by_at_most_a_slot(
    kind: str, valkey_url: str, quota: int, bursts: Sequence[tuple[int, int]]
) -> None:
    slot = WINDOW_US // SLOTS

    async def play() -> None:
        async with simulated(kind, valkey_url) as (store, wait):
            passed: list[tuple[int, int]] = []
            now = 0
            for pause, size in bursts:
                now += pause
                await wait(pause)
                verdicts = await asyncio.gather(*(store.take([Counter("a", Limit(quota, WINDOW))]) for _ in range(size)))
                inside = sum(count for at, count in passed if at > now - WINDOW_US)
                inside_longer = sum(count for at, count in passed if at > now - WINDOW_US - slot)
                taken = sum(verdict.allowed for verdict in verdicts)
                assert min(size, max(0, quota - inside_longer)) <= taken <= min(size, quota - inside)
                passed.append((now, taken))

    asyncio.run(play())
