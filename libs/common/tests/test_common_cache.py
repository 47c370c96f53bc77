"""Caches on a real Valkey: what is found, by whom, and what ends it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest
import pytest_asyncio
from cache_rig import A, B, Replica, Rig, Seal, rig_on
from prometheus_client import CollectorRegistry, generate_latest

from wireroom_common.cache import SHARED, Caches, Key, Namespace, cached
from wireroom_common.clock import ManualClock
from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_common.testing.polling import eventually

LONG = "water " * 2_000


@pytest_asyncio.fixture
async def rig(clean_valkey_url: str) -> AsyncIterator[Rig]:
    async with rig_on(clean_valkey_url) as made:
        yield made


@dataclass(frozen=True)
class Pump:
    name: str
    litres: int


class Rows:
    """A third tier that keeps rows; fails on demand."""

    def __init__(self) -> None:
        self.rows: dict[Key, bytes] = {}
        self.loads = 0
        self.fails = False

    async def load(self, keys: Sequence[Key]) -> Mapping[Key, bytes]:
        self.loads += 1
        self._answer()
        return {key: self.rows[key] for key in keys if key in self.rows}

    async def save(self, entries: Mapping[Key, bytes]) -> None:
        self._answer()
        self.rows.update(entries)

    async def delete(self, keys: Sequence[Key]) -> None:
        for key in keys:
            self.rows.pop(key, None)

    def _answer(self) -> None:
        if self.fails:
            raise WireroomError(ErrorKind.UNAVAILABLE, "database_unavailable", "Away.")


def test_a_key_needs_a_tenant_or_the_word_shared() -> None:
    for scope in (None, "", str(A), type(A)(int=0)):
        with pytest.raises(TypeError, match="tenant"):
            Key.of(scope, "question")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="depends on"):
        Key.of(A)
    assert len({Key.of(scope, "question") for scope in (A, B, SHARED)}) == 3


def test_parts_are_told_apart() -> None:
    keys = [
        Key.of(A, "ab", "c"),
        Key.of(A, "a", "bc"),
        Key.of(A, "abc"),
        Key.of(A, b"abc"),
        Key.of(A, ["abc"]),
        Key.of(A, 1),
        Key.of(A, "1"),
        Key.of(A, True),
    ]
    assert len({key.digest for key in keys}) == len(keys)
    assert Key.of(A, {"x": 1, "y": 2}) == Key.of(A, {"y": 2, "x": 1})


def test_a_namespace_that_contradicts_itself_is_refused() -> None:
    with pytest.raises(ValueError, match="service"):
        Namespace("values", 60)
    with pytest.raises(ValueError, match="verify"):
        Namespace("test.values", 60, redis=False, verify=True)


async def test_values_reach_other_replicas_with_their_type(rig: Rig) -> None:
    one, two = (rig.replica().open(kind=Pump) for _ in range(2))
    key = Key.of(A, "aurora")
    assert await one.get(key) is None
    await one.set(key, Pump("Aurora", 14))
    assert await two.get(key) == Pump("Aurora", 14)
    assert await two.get(Key.of(B, "aurora")) is None
    assert await two.get(Key.of(SHARED, "aurora")) is None


async def test_an_entry_of_another_type_is_none(rig: Rig) -> None:
    one, two = rig.replica().open(kind=str), rig.replica().open(kind=Pump)
    await one.set(Key.of(A, "x"), "text")
    assert await two.get(Key.of(A, "x")) is None


async def test_time_ends_entries_in_every_tier(rig: Rig) -> None:
    assert isinstance(rig.clock, ManualClock)
    one, two = rig.replica().open(seconds=100), rig.replica().open(seconds=100)
    key = Key.of(A, "x")
    await one.set(key, "value")
    rig.clock.advance(60)
    assert await two.get(key) == "value"
    rig.clock.advance(39)
    assert (await one.get(key), await two.get(key)) == ("value", "value")
    rig.clock.advance(2)
    # The second's copy in memory came late, and ends with the entry all the same.
    assert (await one.get(key), await two.get(key)) == (None, None)


async def test_jitter_shortens_by_up_to_its_share(rig: Rig) -> None:
    assert isinstance(rig.clock, ManualClock)
    cache = rig.replica(chance=lambda: 1.0).open(seconds=100, jitter=0.2)
    await cache.set(Key.of(A, "x"), "value")
    rig.clock.advance(79)
    assert await cache.get(Key.of(A, "x")) == "value"
    rig.clock.advance(2)
    assert await cache.get(Key.of(A, "x")) is None


async def test_many_are_read_and_kept_in_one_round_trip_each(rig: Rig) -> None:
    replica = rig.replica()
    cache = replica.open()
    keys = [Key.of(A, number, tags=("all", f"t{number % 3}")) for number in range(50)]
    before = await _calls(replica)
    look = await cache.look_up(keys)
    read = await _calls(replica)
    assert read - before == {"mget": 1}
    await cache.set_many({key: str(number) for number, key in enumerate(keys)}, look)
    other = rig.replica().open()
    before = await _calls(replica)
    assert len(await other.get_many(keys)) == 50
    assert (await _calls(replica)) - before == {"mget": 1}
    assert await other.get_many(keys) == {key: str(number) for number, key in enumerate(keys)}


class Calls(dict[str, int]):
    def __sub__(self, other: dict[str, int]) -> dict[str, int]:
        return {name: count - other.get(name, 0) for name, count in self.items() if count != other.get(name, 0)}


async def _calls(replica: Replica) -> Calls:
    stats = await replica.client.info("commandstats")
    aside = {"info", "ping", "hello", "client|setinfo", "client|setname"}
    names = {name.removeprefix("cmdstat_"): row["calls"] for name, row in stats.items()}
    return Calls({name: calls for name, calls in names.items() if name not in aside})


async def test_large_values_are_compressed_and_too_large_ones_not_kept(rig: Rig) -> None:
    replica = rig.replica()
    cache = replica.open(memory_entries=0, max_entry_bytes=20_000)
    await cache.set_many({Key.of(A, "long"): LONG, Key.of(A, "short"): "x" * 900, Key.of(A, "huge"): "x" * 30_000})
    sizes = [await replica.client.strlen(name) async for name in replica.client.scan_iter("wireroom:cache:test.values:*")]
    assert len(sizes) == 2
    assert min(sizes) < len(LONG) / 10
    assert max(sizes) > 900
    assert await cache.get_many([Key.of(A, name) for name in ("long", "short", "huge")]) == {
        Key.of(A, "long"): LONG,
        Key.of(A, "short"): "x" * 900,
    }


async def test_memory_is_bounded_by_bytes_and_entries(rig: Rig) -> None:
    cache = rig.replica().open(redis=False, memory_bytes=10_000, memory_entries=5)
    for number in range(20):
        await cache.set(Key.of(A, number), "x" * 100)
        await cache.get(Key.of(A, 0))
    assert cache.snapshot().entries == 5
    assert await cache.get(Key.of(A, 0)) is not None, "what is used stays"
    assert await cache.get(Key.of(A, 10)) is None
    for number in range(20):
        await cache.set(Key.of(A, "long", number), "x" * 3_000)
    found = cache.snapshot()
    assert found.bytes <= 10_000
    assert found.entries <= 3
    assert found.evictions >= 30


@pytest.mark.parametrize("verify", [False, True])
async def test_a_tag_ends_its_entries_everywhere(rig: Rig, verify: bool) -> None:  # noqa: FBT001 - a parameter
    first, second = rig.replica(), rig.replica()
    one, two = first.open(verify=verify), second.open(verify=verify)
    if not verify:
        await second.listening()
    tagged = [Key.of(A, number, tags=("feeds", "all")) for number in range(20)]
    rest = [Key.of(A, "other", tags=("all",)), Key.of(B, "feeds", tags=("feeds",)), Key.of(A, "untagged")]
    for cache in (one, two):
        look = await cache.look_up([*tagged, *rest])
        await cache.set_many(dict.fromkeys(look.missing, "value"), look)
        assert len(await cache.get_many([*tagged, *rest])) == 23
    before = await _calls(first)
    await one.invalidate(A, "feeds")
    assert (await _calls(first)) - before == {"multi": 1, "set": 1, "publish": 1, "exec": 1}, "whatever the number of entries"
    assert list(await one.get_many([*tagged, *rest])) == rest

    async def gone() -> bool:
        return list(await two.get_many([*tagged, *rest])) == rest

    await eventually(gone, within=0.001 if verify else 2.0)
    look = await two.look_up(tagged)
    await two.set_many(dict.fromkeys(tagged, "new"), look)
    assert set((await one.get_many(tagged)).values()) == {"new"}


async def test_what_was_made_before_an_invalidation_is_not_kept_after_it(rig: Rig) -> None:
    one, two = rig.replica().open(), rig.replica().open()
    key = Key.of(A, "list", tags=("feeds",))

    async def make() -> str:
        # The source is read; then, before the value is kept, somebody changes it.
        await two.invalidate(A, "feeds")
        return "old"

    for _ in range(2):
        assert await one.get_or_make(key, make) == "old"
    assert await two.get(key) is None

    async def same() -> str:
        await one.invalidate(A, "feeds")
        return "old"

    assert await one.get_or_make(Key.of(A, "mine", tags=("feeds",)), same) == "old"
    assert await one.get(Key.of(A, "mine", tags=("feeds",))) is None


async def test_tags_need_the_lookup_that_came_before(rig: Rig) -> None:
    cache = rig.replica().open()
    with pytest.raises(ValueError, match="look-up"):
        await cache.set(Key.of(A, "x", tags=("feeds",)), "value")


async def test_a_lost_tag_version_makes_misses_not_old_values(rig: Rig) -> None:
    """Redis may evict any key; what was invalidated must not come back with it."""
    replica = rig.replica()
    cache = replica.open(memory_entries=0)
    key = Key.of(A, "x", tags=("feeds",))
    await cache.set(key, "old", await cache.look_up([key]))
    tags = [name async for name in replica.client.scan_iter("wireroom:cache:*:tag:*")]
    await replica.client.delete(*tags)
    assert await cache.get(key) is None
    await cache.set(key, "new", await cache.look_up([key]))
    assert await cache.get(key) == "new"


async def test_deleted_entries_go_everywhere(rig: Rig) -> None:
    first, second = rig.replica(), rig.replica()
    one, two = first.open(), second.open()
    await second.listening()
    key = Key.of(A, "x")
    await one.set(key, "value")
    assert await two.get(key) == "value"
    await one.delete(key)
    assert await one.get(key) is None

    async def gone() -> bool:
        return await two.get(key) is None

    await eventually(gone, within=2.0)


async def test_sealed_entries_are_unreadable_and_cannot_be_moved_or_prolonged(rig: Rig) -> None:
    seal = Seal()
    replica = rig.replica()
    cache = replica.open(seal=seal, memory_entries=0)
    key, other = Key.of(A, "x", tags=("t",)), Key.of(B, "x", tags=("t",))
    look = await cache.look_up([key, other])
    await cache.set_many({key: LONG, other: "other"}, look)
    values = {
        name: await replica.client.get(name)
        async for name in replica.client.scan_iter("wireroom:cache:test.values:*")
        if b":tag:" not in name
    }
    assert len(values) == 2
    assert all(b"water" not in value and b"other" not in value for value in values.values())
    assert await rig.replica().open(seal=Seal(), memory_entries=0).get(key) is None
    assert await rig.replica().open(memory_entries=0).get(key) is None
    mine = next(name for name in values if A.hex.encode() in name)
    foreign = next(name for name in values if B.hex.encode() in name)
    # An entry in another's place, and one whose head was given a later end.
    await replica.client.set(foreign, values[mine])
    assert await cache.get(other) is None
    head, body = msgspec.msgpack.decode(values[mine])
    await replica.client.set(mine, msgspec.msgpack.encode([[head[0] + 1, *head[1:]], body]))
    assert await cache.get(key) is None
    await replica.client.set(mine, values[mine])
    assert await cache.get(key) == LONG


@pytest.mark.parametrize("junk", [b"", b"junk", b"\xff" * 50, msgspec.msgpack.encode([[2**50, [], [], 1], b"not zlib"])])
async def test_junk_in_redis_is_a_miss(rig: Rig, junk: bytes) -> None:
    replica = rig.replica()
    cache = replica.open(memory_entries=0)
    await cache.set(Key.of(A, "x"), "value")
    (name,) = [name async for name in replica.client.scan_iter("wireroom:cache:*")]
    await replica.client.set(name, junk)
    assert await cache.get(Key.of(A, "x")) is None


async def test_the_third_tier_fills_the_others(rig: Rig) -> None:
    rows = Rows()
    one = rig.replica().open(immutable=True, durable=rows)
    keys = [Key.of(A, number) for number in range(5)]
    await one.set_many(dict.fromkeys(keys[:4], "value"))
    assert len(rows.rows) == 4
    replica = rig.replica()
    await replica.client.flushall()
    two = replica.open(immutable=True, durable=rows)
    look = await two.look_up(keys)
    assert look.missing == [keys[4]]
    loads = rows.loads
    # Promoted: memory has it now, and so has Redis for a third replica without rows.
    assert len(await two.get_many(keys[:4])) == 4
    assert rows.loads == loads
    assert len(await rig.replica().open(immutable=True).get_many(keys)) == 4
    tiers = two.snapshot().tiers
    assert (tiers["database"].hits, tiers["database"].misses, tiers["redis"].misses, tiers["memory"].hits) == (4, 1, 5, 4)
    rows.fails = True
    assert await two.get(keys[4]) is None
    await two.set(keys[4], "value")
    assert await two.get(keys[4]) == "value"
    assert two.snapshot().errors == 2


async def test_decorated_functions_keep_their_results(rig: Rig) -> None:
    cache = rig.replica().open(kind=int)
    calls: list[tuple[Any, ...]] = []

    @cached(cache, lambda tenant_id, query, *, limit=10: Key.of(tenant_id, query, limit))
    async def count(tenant_id: Any, query: str, *, limit: int = 10) -> int:
        calls.append((tenant_id, query, limit))
        return len(query) + limit

    assert [await count(A, "ab"), await count(A, "ab"), await count(B, "ab"), await count(A, "ab", limit=3)] == [12, 12, 12, 5]
    assert len(calls) == 3


async def test_hit_rates_are_counted_per_namespace_and_tier(rig: Rig) -> None:
    replica = rig.replica()
    cache = replica.open()
    with pytest.raises(ValueError, match="open already"):
        replica.open()
    key = Key.of(A, "x")
    await cache.get(key)
    await cache.set(key, "value")
    await cache.get(key)
    await cache.get(key)
    (found,) = replica.caches.snapshot()
    assert (found.hits, found.misses, found.hit_ratio, found.entries) == (2, 1, pytest.approx(2 / 3), 1)
    assert (found.tiers["memory"].hits, found.tiers["redis"].misses) == (2, 1)
    text = generate_latest(replica.registry).decode()
    assert 'wireroom_cache_hits_total{namespace="test.values",tier="memory"} 2.0' in text
    assert 'wireroom_cache_misses_total{namespace="test.values",tier="redis"} 1.0' in text
    assert 'wireroom_cache_lookups_total{namespace="test.values",result="miss"} 1.0' in text


async def test_a_process_without_redis_keeps_in_memory_what_needs_no_verifying() -> None:
    caches = Caches(None, ManualClock(), CollectorRegistry())
    plain = caches.open(Namespace("test.plain", 60, warm=5), str)
    strict = caches.open(Namespace("test.strict", 60, verify=True), str)
    caches.start()
    key = Key.of(A, "x", tags=("t",))

    async def make() -> str:
        return "value"

    for cache in (plain, strict):
        assert await cache.get_or_make(key, make) == "value"
    assert await plain.get(key) == "value"
    assert await strict.get(key) is None
    await plain.invalidate(A, "t")
    assert await plain.get(key) is None
    assert not plain.snapshot().degraded
    await caches.stop()
