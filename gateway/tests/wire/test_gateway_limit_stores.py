"""The same cases for both stores, and the window against a naive model."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest
import pytest_asyncio
from gateway_rig import new_redis
from hypothesis import given, settings
from hypothesis import strategies as st

from wireroom_common.clock import ManualClock, SystemClock
from wireroom_common.testing import eventually
from wireroom_gateway.limits.memory import MemoryCounterStore
from wireroom_gateway.limits.policy import Limit, policy_table
from wireroom_gateway.limits.redis import RedisCounterStore
from wireroom_gateway.limits.sliding import MICROSECONDS, SLOTS, SlidingWindow
from wireroom_gateway.limits.store import Counter, CounterStore, Verdict, Violations


@pytest_asyncio.fixture(params=["memory", "redis"])
async def stores(request: pytest.FixtureRequest) -> AsyncIterator[list[CounterStore]]:
    """Two views of the same counters, as two replicas have them."""
    if request.param == "memory":
        store = MemoryCounterStore(SystemClock())
        yield [store, store]
        return
    url = request.getfixturevalue("clean_valkey_url")
    clients = [new_redis(url), new_redis(url)]
    shared = [RedisCounterStore(client) for client in clients]
    yield list(shared)
    for number, client in enumerate(clients):
        await shared[number].close()
        await client.aclose()


def counter(name: str, quota: int, window: int = 60) -> Counter:
    return Counter(name, Limit(quota, window))


# Per case: the quotas, then the requests as names of the counters they charge, with the expected outcome and what then remains.
CASES: dict[str, tuple[dict[str, int], Sequence[tuple[str, bool, tuple[int, ...]]]]] = {
    "up to the quota": ({"a": 2}, [("a", True, (1,)), ("a", True, (0,)), ("a", False, (0,)), ("a", False, (0,))]),
    "one": ({"a": 1}, [("a", True, (0,)), ("a", False, (0,))]),
    "independent": ({"a": 1, "b": 1}, [("a", True, (0,)), ("b", True, (0,)), ("a", False, (0,))]),
    "all or none": ({"a": 1, "b": 5}, [("ab", True, (0, 4)), ("ab", False, (0, 4)), ("b", True, (3,)), ("ab", False, (0, 3))]),
    "later row full": ({"a": 5, "b": 1}, [("ab", True, (4, 0)), ("ab", False, (4, 0)), ("a", True, (3,))]),
    "above the exact range": ({"a": 1_500, "b": 1}, [("a", True, (1_499,)), ("ab", True, (1_498, 0)), ("ab", False, (1_498, 0))]),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
async def test_quotas_hold(
    stores: list[CounterStore], case: tuple[dict[str, int], Sequence[tuple[str, bool, tuple[int, ...]]]]
) -> None:
    quotas, requests = case
    for number, (names, allowed, remaining) in enumerate(requests):
        verdict = await stores[number % 2].take([counter(name, quotas[name]) for name in names])
        assert verdict.allowed is allowed, number
        assert tuple(state.remaining for state in verdict.states) == remaining, number
        for state in verdict.states:
            assert state.remaining == 0 or state.passed
            assert 0 < state.reset <= 61 or state.remaining == state.counter.limit.quota


@pytest.mark.parametrize(("quota", "before"), [(50, 0), (150, 37), (1_100, 950)])
async def test_200_requests_at_once_pass_exactly_up_to_the_quota(stores: list[CounterStore], quota: int, before: int) -> None:
    for _ in range(before):
        await stores[0].take([counter("a", quota)])
    verdicts = await asyncio.gather(*(stores[n % 2].take([counter("a", quota), counter("b", 10_000)]) for n in range(200)))
    assert sum(verdict.allowed for verdict in verdicts) == min(200, quota - before)


async def test_what_left_the_window_counts_no_more(stores: list[CounterStore]) -> None:
    short = counter("a", 2, window=1)
    assert [(await stores[0].take([short])).allowed for _ in range(3)] == [True, True, False]
    refused = await stores[1].take([short])
    assert 0 <= refused.states[0].reset <= 1

    async def allowed() -> bool:
        return (await stores[1].take([short])).allowed

    await eventually(allowed, within=5)


async def test_counters_in_redis_expire_by_themselves(clean_valkey_url: str) -> None:
    client = new_redis(clean_valkey_url)
    store = RedisCounterStore(client)
    await store.take([counter("a", 5), counter("b", 5_000)])
    await store.close()
    keys = [key async for key in client.scan_iter()]
    assert len(keys) == 2
    for key in keys:
        assert 30_000 <= await client.pttl(key) <= 62_000
    await client.aclose()


async def test_a_share_of_the_quota_is_never_nothing() -> None:
    store = MemoryCounterStore(ManualClock(), share=4)
    assert [(await store.take([counter("a", 8)])).allowed for _ in range(3)] == [True, True, False]
    assert [(await store.take([counter("b", 3)])).allowed for _ in range(2)] == [True, False]


async def test_memory_keeps_a_bounded_number_of_counters() -> None:
    store = MemoryCounterStore(ManualClock(), max_keys=2)
    for name in ("a", "b", "a", "c"):
        await store.take([counter(name, 5)])
    # "b" was not used for longest: it starts anew, "a" goes on.
    assert (await store.take([counter("a", 5)])).states[0].remaining == 2


async def test_a_full_counter_in_shadow_refuses_nothing_and_is_not_charged(stores: list[CounterStore]) -> None:
    shadow = Counter("s", Limit(2, shadow=True))
    verdicts = [await stores[number % 2].take([counter("a", 4), shadow]) for number in range(5)]
    assert [verdict.allowed for verdict in verdicts] == [True, True, True, True, False]
    assert [verdict.states[1].passed for verdict in verdicts] == [True, True, False, False, False]
    assert [verdict.states[0].remaining for verdict in verdicts] == [3, 2, 1, 0, 0]


async def test_a_narrower_limit_finds_what_was_counted_before(stores: list[CounterStore]) -> None:
    for _ in range(5):
        await stores[0].take([counter("a", 10)])
    assert not (await stores[1].take([counter("a", 5)])).allowed
    assert (await stores[0].take([counter("a", 6)])).allowed


async def test_refusals_are_counted_over_replicas_up_to_the_last_straw(clean_valkey_url: str) -> None:
    clients = [new_redis(clean_valkey_url), new_redis(clean_valkey_url)]
    stores = [RedisCounterStore(client) for client in clients]
    rule = Violations("192.0.2.1:", threshold=4, window=60)
    own, shared = counter("a", 1), Counter("all", Limit(1), own=False)
    counts = [(await stores[number % 2].take([own], rule)).violations for number in range(10)]
    # The first passes; the fourth refusal is told once, and the count starts anew.
    assert counts == [0, 1, 2, 3, 4, 1, 2, 3, 4, 1]
    # Another caller has a count of its own; rows that many share, or in shadow, are nobody's violation.
    assert (await stores[0].take([own], Violations("192.0.2.2:", 4, 60))).violations == 1
    await stores[0].take([shared])
    assert [(await stores[0].take([shared], rule)).violations for _ in range(3)] == [0, 0, 0]
    assert (await stores[0].take([own])).violations == 0
    assert 30_000 <= await clients[0].pttl("{rl}:violations:192.0.2.1:") <= 61_000
    for number, client in enumerate(clients):
        await stores[number].close()
        await client.aclose()


async def test_200_refusals_at_once_reach_the_threshold_exactly_twice(clean_valkey_url: str) -> None:
    client = new_redis(clean_valkey_url)
    store = RedisCounterStore(client)
    rule = Violations("192.0.2.1:", threshold=100, window=60)
    verdicts = await asyncio.gather(*(store.take([counter("a", 1)], rule) for _ in range(201)))
    assert sum(verdict.violations >= 100 for verdict in verdicts) == 2
    await store.close()
    await client.aclose()


async def test_scripts_that_the_server_forgot_are_sent_again(clean_valkey_url: str) -> None:
    client = new_redis(clean_valkey_url)
    store = RedisCounterStore(client)
    for expected in (2, 1):
        verdicts = await asyncio.gather(store.take([counter("a", 3)]), store.take([counter("b", 9)]))
        assert verdicts[0].states[0].remaining == expected
        await client.script_flush()
    await store.close()
    await client.aclose()


async def test_a_caller_that_goes_away_does_not_take_the_answer_from_others(clean_valkey_url: str) -> None:
    client = new_redis(clean_valkey_url)
    store = RedisCounterStore(client)
    calls = [asyncio.create_task(store.take([counter("a", 1_000)])) for _ in range(50)]
    await asyncio.sleep(0)
    for call in calls[::2]:
        call.cancel()
    answers = await asyncio.gather(*calls, return_exceptions=True)
    assert all(isinstance(answer, asyncio.CancelledError) for answer in answers[::2])
    assert all(isinstance(answer, Verdict) and answer.allowed for answer in answers[1::2])
    await store.close()
    await client.aclose()


async def test_what_the_shared_store_let_pass_counts_when_the_stand_in_takes_over() -> None:
    clock = ManualClock()
    store = MemoryCounterStore(clock, share=2)
    for _ in range(3):
        store.note([counter("a", 8)])
        clock.advance(10)
    # Its share is 4, and 3 of them are used: 30, 20 and 10 seconds ago.
    assert [(await store.take([counter("a", 8)])).allowed for _ in range(2)] == [True, False]
    for _ in range(20):
        store.note([counter("a", 8)])
    clock.advance(59)
    assert not (await store.take([counter("a", 8)])).allowed
    clock.advance(1)
    assert (await store.take([counter("a", 8)])).allowed


@given(
    quota=st.integers(1, 8),
    window=st.integers(1, 50),
    pauses=st.lists(st.integers(0, 30), max_size=80),
)
def test_the_window_is_that_of_the_naive_model(quota: int, window: int, pauses: list[int]) -> None:
    tested, naive, now = SlidingWindow(quota, window), list[int](), 0
    for pause in pauses:
        now += pause
        inside = [at for at in naive if at > now - window]
        usage = tested.usage(now)
        assert usage.count == len(inside)
        assert usage.reset_us == (inside[0] + window - now if inside else 0)
        if usage.count < quota:
            tested.charge(now)
            naive.append(now)


@settings(max_examples=40)
@given(
    quota=st.integers(1_001, 1_200),
    bursts=st.lists(st.tuples(st.integers(0, 20 * MICROSECONDS), st.integers(1, 700)), min_size=1, max_size=12),
)
def test_above_the_exact_range_it_errs_to_the_safe_side_by_at_most_a_slot(quota: int, bursts: list[tuple[int, int]]) -> None:
    window = 60 * MICROSECONDS
    slot = window // SLOTS
    tested, passed, now = SlidingWindow(quota, window), list[tuple[int, int]](), 0
    for pause, size in bursts:
        now += pause
        usage = tested.usage(now)
        inside = sum(count for at, count in passed if at > now - window)
        inside_longer = sum(count for at, count in passed if at > now - window - slot)
        assert inside <= usage.count <= inside_longer
        taken = min(size, quota - usage.count)
        for _ in range(taken):
            tested.charge(now)
        passed.append((now, taken))
        assert sum(count for at, count in passed if at > now - window) <= quota


@pytest.mark.parametrize("overrides", [{"chat": 1}, {"chat.nobody": 1}, {"other.ip": 1}, {"chat.ip": -1}, {".": 1}], ids=str)
def test_unknown_rows_stop_the_start(overrides: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="limit_overrides"):
        policy_table(overrides)
