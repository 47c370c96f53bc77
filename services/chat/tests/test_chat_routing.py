"""Circuit breakers and strategies: the pure state machine, and what replicas make of it through Redis."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from redis.asyncio import Redis
from sqlalchemy import text

from wireroom_chat.adapters.provider_health import CandidateKey, SharedHealth, key_of
from wireroom_chat.adapters.provider_metrics import ProviderMetrics
from wireroom_chat.adapters.provider_store import SqlIncidents
from wireroom_chat.domain.providers import Candidate, Price, ProviderModel, Strategy
from wireroom_chat.domain.routing import (
    UNKNOWN,
    BreakerPolicy,
    Circuit,
    Health,
    Observation,
    ProviderError,
    Standing,
    Verdict,
    advance,
    ordered,
)
from wireroom_common.clock import SystemClock
from wireroom_common.errors import ErrorKind
from wireroom_common.testing import eventually
from wireroom_common.testing.plugin import MigratedDatabase

POLICY = BreakerPolicy(consecutive=3, minimum=10, pause=4.0, longest=20.0)
QUICK = BreakerPolicy(consecutive=2, pause=0.3, longest=0.3)
NOBODY = "redis://127.0.0.1:1/0"


def candidate(name: str, price: Price | None = None, weight: int = 1) -> Candidate:
    return Candidate(ProviderModel("p", name, price), "main", weight)


ONE = candidate("one")


def failing(**members: Any) -> ProviderError:
    return ProviderError(ErrorKind.UNAVAILABLE, "provider_unavailable", "It is away.", **members)


@given(
    st.lists(
        st.tuples(
            st.integers(0, 240).map(lambda eighths: eighths / 8),
            st.sampled_from(Verdict),
            st.sampled_from([0.0, 0.0, 1.0, 50.0]),
            st.sampled_from([0.0, 0.01, 2.0]),
        ),
        max_size=60,
    )
)
def test_breaker_state_machine(steps: list[tuple[float, Verdict, float, float]]) -> None:
    now, health, failures = 1000.0, UNKNOWN, 0
    for wait, verdict, pause, first_token in steps:
        now += wait
        before = health.circuit(now)
        after = advance(health, Observation(now, verdict, pause, first_token), POLICY)
        circuit = after.circuit(now)
        # A pause that was asked for is kept, and never shortened.
        assert after.cooldown_until >= max(health.cooldown_until, now + pause if pause else 0)
        assert after.blocked_for(now) >= pause
        if before is Circuit.OPEN:
            # Nothing but time ends it.
            assert (after.opens_until, after.trips) == (health.opens_until, health.trips)
        elif verdict is Verdict.OK:
            assert circuit is Circuit.CLOSED
            assert after.consecutive == 0
        elif verdict is Verdict.LIMITED:
            assert (after.opens_until, after.consecutive) == (health.opens_until, health.consecutive)
        elif before is Circuit.HALF_OPEN or verdict is Verdict.REFUSED:
            assert circuit is Circuit.OPEN
            assert after.trips == health.trips + 1
        else:
            failures = health.consecutive + 1
            assert circuit is Circuit.OPEN or after.consecutive == failures < POLICY.consecutive
        if circuit is Circuit.OPEN and before is not Circuit.OPEN:
            lowest = POLICY.refused if verdict is Verdict.REFUSED else POLICY.pause
            assert lowest <= after.opens_until - now <= max(POLICY.longest, POLICY.refused)
        if circuit is Circuit.CLOSED:
            assert after.trips == 0
        assert after.good >= 0
        assert after.bad >= 0
        health = after


def test_pauses_double_while_probes_fail_and_start_anew_after_a_success() -> None:
    health, now, pauses = UNKNOWN, 0.0, []
    for _ in range(3):
        health = advance(health, Observation(now, Verdict.FAILED), POLICY)
    for _ in range(4):
        pauses.append(health.opens_until - now)
        now = health.opens_until
        assert health.circuit(now) is Circuit.HALF_OPEN
        health = advance(health, Observation(now, Verdict.FAILED), POLICY)
    assert pauses == [4, 8, 16, 20]
    now = health.opens_until
    health = advance(health, Observation(now, Verdict.OK), POLICY)
    for _ in range(3):
        health = advance(health, Observation(now, Verdict.FAILED), POLICY)
    assert health.opens_until - now == 4


def test_half_of_the_calls_failing_opens_the_circuit_without_a_row_of_failures() -> None:
    health, calls = UNKNOWN, 0
    while health.circuit(calls * 0.01) is Circuit.CLOSED and calls < 40:
        health = advance(health, Observation(calls * 0.01, Verdict.FAILED if calls % 2 else Verdict.OK), POLICY)
        calls += 1
    assert calls == POLICY.minimum


def test_old_failures_fade() -> None:
    health = UNKNOWN
    for minute in range(60):
        health = advance(health, Observation(minute * 120.0, Verdict.FAILED if minute % 2 else Verdict.OK), POLICY)
    assert health.circuit(60 * 120.0) is Circuit.CLOSED


def standings(*entries: tuple[Candidate, float, float]) -> list[Standing]:
    return [Standing(*entry) for entry in entries]


def test_strategies_put_usable_ones_first_in_their_order() -> None:
    a = candidate("a", Price(100, 400))
    b = candidate("b", Price(300, 100))
    c = candidate("c", None)
    half = lambda: 0.5  # noqa: E731 - a number that does not matter
    free = standings((a, 0, 0.9), (b, 0, 0.2), (c, 0, 0.0))
    assert ordered(free, Strategy.ORDERED, half) == [a, b, c]
    # 3 x 100 + 400 against 3 x 300 + 100; unknown is never cheapest.
    assert ordered(free, Strategy.CHEAPEST, half) == [a, b, c]
    assert ordered(free, Strategy.LOWEST_LATENCY, half) == [c, b, a]
    blocked = standings((a, 9, 0.9), (b, 3, 0.2), (c, 0, 0.0))
    for strategy in Strategy:
        assert ordered(blocked, strategy, half) == [c, b, a]


def test_weights_are_shares_of_first_places() -> None:
    import random  # noqa: PLC0415 - seeded, for this test only

    draw = random.Random(7).random  # noqa: S311 - no secret
    entries = standings((candidate("a", weight=6), 0, 0), (candidate("b", weight=3), 0, 0), (candidate("c", weight=1), 0, 0))
    first = Counter(ordered(entries, Strategy.WEIGHTED, draw)[0].model.name for _ in range(5000))
    assert first["a"] / 5000 == pytest.approx(0.6, abs=0.03)
    assert first["b"] / 5000 == pytest.approx(0.3, abs=0.03)
    never = standings((candidate("z", weight=0), 0, 0), (candidate("a", weight=1), 0, 0))
    assert {ordered(never, Strategy.WEIGHTED, draw)[0].model.name for _ in range(50)} == {"a"}


class Telling:
    def __init__(self) -> None:
        self.told: list[tuple[CandidateKey, bool]] = []

    async def tell(self, key: CandidateKey, health: Health, retry_in: float) -> None:
        del retry_in
        self.told.append((key, health.degraded))


@asynccontextmanager
async def replicas(url: str, count: int, policy: BreakerPolicy, **more: Any) -> AsyncIterator[list[SharedHealth]]:
    clients = [Redis.from_url(url, socket_connect_timeout=1) for _ in range(count)]
    yield [
        SharedHealth(client, SystemClock(), lambda: [ONE], ProviderMetrics(CollectorRegistry()), policy=policy, **more)
        for client in clients
    ]
    for client in clients:
        await client.aclose()


async def test_what_one_replica_learns_the_others_know(clean_valkey_url: str) -> None:
    async with replicas(clean_valkey_url, 3, POLICY) as (first, second, third):
        for replica in (first, second, third):
            await replica.exchange()
        # The failures are spread: no replica sees enough of them by itself.
        for replica in (first, second, third):
            replica.failed(ONE, failing())
            assert replica.blocked_for(ONE) == 0
            await replica.exchange()
        for replica in (first, second, third):
            await replica.exchange()
            assert 0 < replica.blocked_for(ONE) <= 4
            assert replica.health(ONE)[1] is Circuit.OPEN


async def test_retry_after_is_honoured_by_all(clean_valkey_url: str) -> None:
    async with replicas(clean_valkey_url, 2, POLICY) as (first, second):
        await first.exchange()
        first.failed(ONE, ProviderError(ErrorKind.RATE_LIMITED, "provider_rate_limited", "Later.", retry_after=30))
        await first.exchange()
        await second.exchange()
        assert 29 < second.blocked_for(ONE) <= 30
        assert second.health(ONE)[1] is Circuit.CLOSED
        second.limited(key_of(ONE), 50)
        await second.exchange()
        await first.exchange()
        assert 49 < first.blocked_for(ONE) <= 50


async def test_one_probe_over_all_replicas(clean_valkey_url: str) -> None:
    async with replicas(clean_valkey_url, 4, QUICK) as all_of_them:
        for replica in all_of_them:
            await replica.exchange()
        for _ in range(2):
            all_of_them[0].failed(ONE, failing())
        await all_of_them[0].exchange()
        for replica in all_of_them:
            await replica.exchange()
            assert replica.blocked_for(ONE) > 0

        async def half_open() -> bool:
            return all(replica.health(ONE)[1] is Circuit.HALF_OPEN for replica in all_of_them)

        await eventually(half_open, within=5)
        assert all(replica.blocked_for(ONE) > 0 for replica in all_of_them)
        await asyncio.gather(*(replica.exchange() for replica in all_of_them))
        usable = [replica for replica in all_of_them if replica.blocked_for(ONE) == 0]
        assert len(usable) == 1
        usable[0].began(ONE)
        await asyncio.gather(*(replica.exchange() for replica in all_of_them))
        assert all(replica.blocked_for(ONE) > 0 for replica in all_of_them)
        usable[0].succeeded(ONE, first_token_seconds=0.2, tokens_out=1, seconds=0.3)
        await usable[0].exchange()
        for replica in all_of_them:
            await replica.exchange()
            assert replica.blocked_for(ONE) == 0
            assert replica.health(ONE)[0].first_token == pytest.approx(0.2)


@pytest.mark.parametrize("alive", [True, False])
async def test_probe_that_ends_without_a_verdict_blocks_nobody(clean_valkey_url: str, alive: bool) -> None:  # noqa: FBT001 - a parameter
    async with replicas(clean_valkey_url, 2, QUICK) as (first, second):
        for replica in (first, second):
            await replica.exchange()
        for _ in range(2):
            first.failed(ONE, failing())
        await first.exchange()
        await second.exchange()

        async def offered(replica: SharedHealth) -> bool:
            await replica.exchange()
            return replica.blocked_for(ONE) == 0

        await eventually(lambda: offered(first), within=5)
        first.began(ONE)
        await first.exchange()
        assert first.blocked_for(ONE) > 0
        first.released(ONE, alive=alive)
        await first.exchange()
        # Alive: its circuit is closed. Otherwise nothing is known, and whoever is asked next may find out.
        assert first.health(ONE)[0].degraded is not alive
        await eventually(lambda: offered(second), within=5)


async def test_offer_that_is_not_used_goes_to_another_replica(clean_valkey_url: str) -> None:
    async with replicas(clean_valkey_url, 2, QUICK) as (first, second):
        for replica in (first, second):
            await replica.exchange()
        for _ in range(2):
            first.failed(ONE, failing())
        await first.exchange()
        await second.exchange()

        async def offered(replica: SharedHealth) -> bool:
            await replica.exchange()
            return replica.blocked_for(ONE) == 0

        first.blocked_for(ONE)
        await eventually(lambda: offered(first), within=5)
        # It never calls; only the other one is asked.
        await eventually(lambda: offered(second), within=5)


async def test_without_redis_each_replica_judges_by_itself_and_hands_it_in_later(clean_valkey_url: str) -> None:
    async with replicas(NOBODY, 1, QUICK) as (alone,), replicas(clean_valkey_url, 1, QUICK) as (other,):
        await alone.exchange()
        assert alone.shared is False
        for _ in range(2):
            alone.failed(ONE, failing())
        await alone.exchange()
        assert alone.blocked_for(ONE) > 0
        await eventually(lambda: alone.blocked_for(ONE) == 0, within=5)
        alone.began(ONE)
        assert alone.blocked_for(ONE) > 0
        alone.failed(ONE, failing())
        assert alone.health(ONE)[1] is Circuit.OPEN
        back = Redis.from_url(clean_valkey_url)
        alone._redis = back  # noqa: SLF001 - Redis is there again
        alone._swap.registered_client = back  # noqa: SLF001
        await alone.exchange()
        await other.exchange()
        assert (bool(alone.shared), other.health(ONE)[0].degraded) == (True, True)
        await back.aclose()


async def test_knowledge_survives_an_emptied_redis(clean_valkey_url: str) -> None:
    async with replicas(clean_valkey_url, 2, POLICY) as (first, second):
        for _ in range(3):
            first.failed(ONE, failing())
        await first.exchange()
        flusher = Redis.from_url(clean_valkey_url)
        await flusher.flushall()
        await flusher.aclose()
        await first.exchange()
        await first.exchange()
        await second.exchange()
        assert second.health(ONE)[1] is Circuit.OPEN


async def test_storm_of_reports_loses_none(clean_valkey_url: str) -> None:
    policy = BreakerPolicy(consecutive=10_000, minimum=10_000, window=1e9)
    async with replicas(clean_valkey_url, 4, policy) as all_of_them:
        for round_number in range(10):
            for replica in all_of_them:
                for _ in range(5):
                    replica.failed(ONE, failing())
            await asyncio.gather(*(replica.exchange() for replica in all_of_them))
            del round_number
        for _ in range(4):
            for replica in all_of_them:
                await replica.exchange()
        assert [round(replica.health(ONE)[0].bad) for replica in all_of_them] == [200] * 4


async def test_incidents_are_told_once_over_all_replicas(clean_valkey_url: str, migrated_database: MigratedDatabase) -> None:
    database = await migrated_database("chat")
    async with replicas(clean_valkey_url, 3, QUICK, incidents=SqlIncidents(database)) as all_of_them:
        for _ in range(2):
            all_of_them[0].failed(ONE, failing())
        for _ in range(2):
            await asyncio.gather(*(replica.exchange() for replica in all_of_them))

        async def events() -> list[str]:
            async with database.system() as connection:
                return list((await connection.execute(text("SELECT type FROM outbox ORDER BY id"))).scalars())

        assert await events() == ["llm.provider.degraded"]

        async def probing() -> bool:
            all_of_them[1].blocked_for(ONE)
            await all_of_them[1].exchange()
            return all_of_them[1].blocked_for(ONE) == 0

        await eventually(probing, within=5)
        all_of_them[1].began(ONE)
        all_of_them[1].succeeded(ONE, first_token_seconds=0.1, tokens_out=1, seconds=0.1)
        for _ in range(3):
            for replica in all_of_them:
                await replica.exchange()
        assert await events() == ["llm.provider.degraded", "llm.provider.recovered"]


async def test_bad_credentials_open_at_once(clean_valkey_url: str) -> None:
    async with replicas(clean_valkey_url, 1, POLICY) as (replica,):
        replica.failed(ONE, ProviderError(ErrorKind.UNAVAILABLE, "provider_refused", "Key."))
        assert 59 < replica.blocked_for(ONE) <= 60
