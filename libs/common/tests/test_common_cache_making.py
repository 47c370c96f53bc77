"""Who makes a missing value, and who waits for it."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest_asyncio
from cache_rig import A, Rig, rig_on

from wireroom_common.cache import Key
from wireroom_common.testing.polling import eventually


@pytest_asyncio.fixture
async def rig(clean_valkey_url: str) -> AsyncIterator[Rig]:
    async with rig_on(clean_valkey_url) as made:
        yield made


async def test_many_callers_cause_one_making(rig: Rig) -> None:
    caches = [rig.replica().open() for _ in range(3)]
    # Connected before, so that a busy machine does not pass for a Redis that is away.
    assert [await cache.get(Key.of(A, "other")) for cache in caches] == [None] * 3
    made = 0

    async def make() -> str:
        nonlocal made
        made += 1
        await asyncio.sleep(0.15)
        return "value"

    answers = await asyncio.gather(*(cache.get_or_make(Key.of(A, "x", tags=("t",)), make) for cache in caches for _ in range(20)))
    assert made == 1
    assert set(answers) == {"value"}


_PROCESS = """
import asyncio, sys
from uuid import UUID
import redis.asyncio
from prometheus_client import CollectorRegistry
from wireroom_common.cache import Caches, Key, Namespace
from wireroom_common.clock import SystemClock

async def main():
    async with redis.asyncio.Redis.from_url(sys.argv[1]) as client:
        cache = Caches(client, SystemClock(), CollectorRegistry()).open(Namespace("test.values", 60), str)
        async def make():
            await client.incr("made")
            await asyncio.sleep(0.2)
            return "value"
        await client.incr("ready")
        while int(await client.get("ready")) < 2:
            await asyncio.sleep(0.005)
        found = await asyncio.gather(*(cache.get_or_make(Key.of(UUID(int=7), "x"), make) for _ in range(5)))
        assert set(found) == {"value"}, found

asyncio.run(main())
"""


async def test_many_processes_cause_one_making(rig: Rig) -> None:
    processes = [await asyncio.create_subprocess_exec(sys.executable, "-c", _PROCESS, rig.url) for _ in range(2)]
    assert [await process.wait() for process in processes] == [0, 0]
    assert await rig.replica().client.get("made") == b"1"


async def test_a_failed_making_is_told_to_all_and_not_kept(rig: Rig) -> None:
    cache = rig.replica().open()
    made = 0

    async def fail() -> str:
        nonlocal made
        made += 1
        await asyncio.sleep(0.02)
        msg = "no source"
        raise LookupError(msg)

    results = await asyncio.gather(*(cache.get_or_make(Key.of(A, "x"), fail) for _ in range(5)), return_exceptions=True)
    assert made == 1
    assert all(isinstance(result, LookupError) for result in results)

    async def make() -> str:
        return "value"

    assert await cache.get_or_make(Key.of(A, "x"), make) == "value"


async def test_a_caller_who_leaves_takes_nobody_along(rig: Rig) -> None:
    cache = rig.replica().open()
    begun, go = asyncio.Event(), asyncio.Event()
    ended: list[str] = []

    async def make() -> str:
        begun.set()
        try:
            await go.wait()
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise
        return "value"

    first = asyncio.create_task(cache.get_or_make(Key.of(A, "x"), make))
    await begun.wait()
    second = asyncio.create_task(cache.get_or_make(Key.of(A, "x"), make))
    waiting = cache.snapshot
    await eventually(lambda: waiting().misses == 2)
    await asyncio.sleep(0)
    first.cancel()
    go.set()
    assert await second == "value"
    begun.clear()
    go.clear()
    alone = asyncio.create_task(cache.get_or_make(Key.of(A, "y"), make))
    await begun.wait()
    alone.cancel()
    await eventually(lambda: ended == ["cancelled"])


async def test_a_maker_that_died_is_replaced_when_its_claim_ends(rig: Rig) -> None:
    dead, cache = rig.replica().open(claim_seconds=0.3), rig.replica().open(claim_seconds=0.3)
    key = Key.of(A, "x")

    async def never() -> str | None:
        return None

    turn = dead.turn(key, never)
    assert await turn.__aenter__() is None
    # The dead replica's claim is not given back.

    async def make() -> str:
        return "value"

    assert await cache.get_or_make(key, make) == "value"
    await turn.__aexit__(None, None, None)


async def test_turn_gives_waiting_callers_what_the_maker_kept(rig: Rig) -> None:
    caches = [rig.replica().open(), rig.replica().open()]
    key = Key.of(A, "x")
    made = 0

    async def ask(cache: Any) -> str:
        nonlocal made
        async with cache.turn(key, lambda: cache.get(key)) as found:
            if found is not None:
                return str(found)
            made += 1
            await asyncio.sleep(0.1)
            await cache.set(key, "streamed")
            return "streamed"

    assert set(await asyncio.gather(*(ask(cache) for cache in caches for _ in range(5)))) == {"streamed"}
    assert made == 1
