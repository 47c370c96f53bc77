"""Caches while Valkey is away, and after it came back."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
from cache_rig import A, Rig, rig_on

from wireroom_common.cache import Key
from wireroom_common.clock import SystemClock
from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_common.runtime.embedded import EmbeddedValkey
from wireroom_common.testing.polling import eventually


@pytest.fixture
def own_valkey() -> Iterator[EmbeddedValkey]:
    """A server that this test stops and starts."""
    folder = Path(tempfile.mkdtemp(prefix="wrcache"))
    folder.chmod(0o755)
    server = EmbeddedValkey(folder)
    yield server
    server.stop()
    shutil.rmtree(folder, ignore_errors=True)


@pytest_asyncio.fixture
async def rig(own_valkey: EmbeddedValkey) -> AsyncIterator[Rig]:
    async with rig_on(own_valkey.start()) as made:
        made.clock = SystemClock()
        yield made


async def test_memory_carries_on_and_everything_comes_back(rig: Rig, own_valkey: EmbeddedValkey) -> None:
    first, second = rig.replica(), rig.replica()
    one, two = first.open(warm=10), second.open(warm=10)
    strict = first.open(name="test.strict", verify=True)
    content = first.open(name="test.content", immutable=True)
    for replica in (first, second):
        await replica.listening()
    kept = Key.of(A, "kept", tags=("t",))
    for cache in (one, strict):
        await cache.set(kept, "value", await cache.look_up([kept]))
    await content.set(Key.of(A, "c"), "content")
    assert await two.get(kept) == "value"
    for _ in range(3):
        assert await one.get(kept) == "value"
    await one.keep_hot()

    own_valkey.stop()
    made = Key.of(A, "made meanwhile", tags=("t",))

    async def make() -> str:
        return "made"

    assert await one.get_or_make(made, make) == "made"
    assert await one.get(kept) == "value"
    assert await one.get(made) == "made"
    assert await strict.get(kept) is None, "what must be verified is not given"
    assert await strict.get_or_make(made, make) == "made"
    assert await strict.get(made) is None
    with pytest.raises(WireroomError) as caught:
        await one.invalidate(A, "t")
    assert caught.value.kind is ErrorKind.UNAVAILABLE
    assert await one.get(kept) is None, "here it is gone all the same"
    await eventually(lambda: not first.caches.hears())
    assert one.snapshot().degraded
    assert await content.get(Key.of(A, "c")) == "content"

    own_valkey.start()

    async def told() -> bool:
        try:
            await one.invalidate(A, "t")
        except WireroomError:
            return False
        return True

    await eventually(told)
    for replica in (first, second):
        await eventually(replica.caches.hears)
    await eventually(lambda: not one.snapshot().degraded)

    async def gone() -> bool:
        return await two.get(kept) is None and await two.get(made) is None

    await eventually(gone)
    await one.set(kept, "again", await one.look_up([kept]))

    async def again() -> bool:
        return await two.get(kept) == "again"

    await eventually(again)
    assert await content.get(Key.of(A, "c")) == "content"


async def test_the_most_wanted_entries_are_in_memory_before_they_are_asked_for(rig: Rig, own_valkey: EmbeddedValkey) -> None:
    before = rig.replica().open(warm=3)
    keys = [Key.of(A, number, tags=("t",)) for number in range(10)]
    gone = Key.of(A, "gone", tags=("u",))
    look = await before.look_up([*keys, gone])
    await before.set_many(dict.fromkeys([*keys, gone], "value"), look)
    for number, key in enumerate(keys[:5]):
        for _ in range(5 - number):
            await before.get(key)
    for _ in range(9):
        await before.get(gone)
    await before.keep_hot()
    await before.invalidate(A, "u")

    started = rig.replica()
    cache = started.open(warm=3)
    started.caches.start()
    # The set holds three: the one that is gone, and the two most wanted of the rest.
    await eventually(lambda: cache.snapshot().warmed == 2)
    assert await cache.get_many(keys[:2]) == dict.fromkeys(keys[:2], "value")
    assert cache.snapshot().tiers["memory"].hits == 2
    assert cache.snapshot().tiers["redis"].hits == 0
    assert await cache.get(gone) is None

    own_valkey.stop()
    await eventually(lambda: not started.caches.hears())
    own_valkey.start()
    await eventually(started.caches.hears)
    await eventually(lambda: cache.snapshot().warmed == 4)
    assert cache.snapshot().entries == 2


async def test_unheard_invalidations_end_memory_after_the_given_time(rig: Rig) -> None:
    one, two = rig.replica().open(unheard_seconds=0.3), rig.replica().open(unheard_seconds=0.3)
    key = Key.of(A, "x", tags=("t",))
    await one.set(key, "old", await one.look_up([key]))
    # Nobody listens on the second replica.
    assert await two.get(key) == "old"
    await one.invalidate(A, "t")

    async def gone() -> bool:
        return await two.get(key) is None

    await eventually(gone, within=2.0)
