"""One namespace over its tiers: memory, Redis and, where given, a database."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

import msgspec

from wireroom_common.cache.claims import Claim, Claims
from wireroom_common.cache.flights import Flights
from wireroom_common.cache.hot import HotKeys
from wireroom_common.cache.keys import Key, Scope
from wireroom_common.cache.link import AwayError, Link
from wireroom_common.cache.memory import Memory, Remembered
from wireroom_common.cache.namespace import Namespace
from wireroom_common.cache.packing import Packing, Sealing
from wireroom_common.cache.redis_tier import RedisTier
from wireroom_common.cache.statistics import DURABLE, MEMORY, REDIS, Counts, Snapshot
from wireroom_common.clock import Clock
from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_common.logging import get_logger

T = TypeVar("T")
F = TypeVar("F")

MAX_KEYS = 1_000
_WAIT_STEP = 0.05

log = get_logger(__name__)


class Durable(Protocol):
    """The third tier: a database. Values are encoded; WireroomError when it does not answer, which costs the caller nothing else."""

    async def load(self, keys: Sequence[Key]) -> Mapping[Key, bytes]:
        """What is kept of `keys`."""

    async def save(self, entries: Mapping[Key, bytes]) -> None:
        """Keep entries; what is there already may stay as it is."""

    async def delete(self, keys: Sequence[Key]) -> None:
        """Let entries go."""


@dataclass
class LookUp(Generic[T]):
    """What was found, and under which versions of the tags it was looked for: what is made for the rest is kept under these."""

    found: dict[Key, T]
    missing: list[Key] = field(default_factory=list)
    # By the tag's name in Redis; None: it had no version yet. Without an entry: Redis could not be asked.
    versions: dict[str, str | None] = field(default_factory=dict)
    epoch: int = 0


class Cache(Generic[T]):
    """Values of one type. Made by `Caches.open`. Reading and keeping never fail for the cache's sake."""

    def __init__(
        self,
        namespace: Namespace,
        kind: type[T],
        link: Link,
        clock: Clock,
        *,
        hears: Callable[[], bool],
        origin: str,
        random: Callable[[], float],
        seal: Sealing | None = None,
        durable: Durable | None = None,
    ) -> None:
        if durable is not None and not namespace.immutable:
            msg = f"Cache namespace '{namespace.name}': a database keeps immutable values only, it has no tags."
            raise ValueError(msg)
        self.namespace = namespace
        self._clock = clock
        self._hears = hears
        self._random = random
        self._durable = durable
        self._link = link
        self._counts = Counts()
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder = msgspec.msgpack.Decoder(kind)
        self._memory = Memory(max_entries=namespace.memory_entries, max_bytes=namespace.memory_bytes)
        packing = Packing(seal, namespace.compress_above, namespace.max_entry_bytes)
        self._redis = RedisTier(namespace, link, clock, counts=self._counts, packing=packing, origin=origin)
        self._claims = Claims(
            link, self._counts, seconds=namespace.claim_seconds, redis=namespace.redis and namespace.claim_seconds > 0
        )
        self._flights: Flights[T] = Flights()
        self._hot = HotKeys(link, self._counts, self._redis.hot_name, namespace.warm)

    async def get(self, key: Key) -> T | None:
        """The value, if it is kept."""
        return (await self.look_up([key])).found.get(key)

    async def get_many(self, keys: Sequence[Key]) -> dict[Key, T]:
        """The values that are kept: one round trip for all that memory does not have."""
        return (await self.look_up(keys)).found

    async def look_up(self, keys: Sequence[Key]) -> LookUp[T]:
        """Like `get_many`, with what `set_many` needs to keep what is made for the missing ones. At most 1,000 keys."""
        look = await self._look(keys)
        self._counts.hits += len(look.found)
        self._counts.misses += len(look.missing)
        for key in look.found:
            self._hot.wanted(self._redis.entry_name(key))
        return look

    async def set(self, key: Key, value: T, after: LookUp[T] | None = None) -> None:
        """`set_many` of one."""
        await self.set_many({key: value}, after)

    async def set_many(self, entries: Mapping[Key, T], after: LookUp[T] | None = None) -> None:
        """Keep values in all tiers, in one round trip. Too large ones are not kept.

        Keys with tags need the look-up that missed them (ValueError otherwise): an invalidation that came after it is honoured.
        """
        _require_bounded(len(entries))
        if after is None and any(key.tags for key in entries):
            msg = "Values whose keys carry tags are kept with the look-up that missed them."
            raise ValueError(msg)
        look: LookUp[T] = after or LookUp({}, epoch=self._memory.epoch)
        payloads = {key: self._encoder.encode(value) for key, value in entries.items()}
        payloads = {key: payload for key, payload in payloads.items() if len(payload) <= self.namespace.max_entry_bytes}
        await self._keep_in_redis(payloads, look)
        await self._keep_durably(payloads)

    async def delete(self, *keys: Key) -> None:
        """Let entries go, here at once and on other replicas by broadcast. UNAVAILABLE when that could not be done everywhere."""
        names = [self._redis.entry_name(key) for key in keys]
        if names:
            await self._drop(names, lambda: self._redis.delete(names))
            if self._durable is not None:
                await self._durable.delete(keys)

    async def invalidate(self, scope: Scope, *tags: str) -> None:
        """Let no entry of the scope with one of the tags be found again, whatever their number.

        In this process and in Redis at once, in the memory of other replicas within two seconds, or after the namespace's
        `unheard_seconds` where the broadcast is away. UNAVAILABLE when Redis could not be told: do it again.
        """
        names = [self._redis.tag_name(scope, tag) for tag in tags]
        if names:
            await self._drop(names, lambda: self._redis.new_versions(names))

    async def get_or_make(self, key: Key, make: Callable[[], Awaitable[T]]) -> T:
        """The value, made if it is missing: by one caller at a time over all replicas, the others get what that one made.

        What `make` raises reaches all callers of this process, and nothing is kept.
        """
        look = await self.look_up([key])
        if key in look.found:
            return look.found[key]
        return await self._flights.share(self._redis.entry_name(key), lambda: self._made(key, make, look))

    @asynccontextmanager
    async def turn(self, key: Key, find: Callable[[], Awaitable[F | None]]) -> AsyncGenerator[F | None, None]:
        """What `find` finds; None for the one caller who is to make it inside the block, and to keep it under `key`.

        All others wait, up to `wait_seconds`, for an entry under `key`, and `find` again when there is one.
        """
        found = await find()
        claim: Claim | None = None
        until = asyncio.get_running_loop().time() + self.namespace.wait_seconds
        name = self._redis.entry_name(key)
        waited = False
        while found is None and claim is None:
            claim = await self._claims.take(name)
            if claim is not None and not waited:
                break
            if claim is None and asyncio.get_running_loop().time() > until:
                break
            if claim is None:
                self._counts.waits += not waited
                waited = True
                await self._claims.wait(name, _WAIT_STEP)
            # Also with the claim: whoever had it may have made the entry in between.
            if (await self._look([key], counted=False)).found:
                found = await find()
        try:
            yield found
        finally:
            if claim is not None:
                await asyncio.shield(self._claims.release(claim))

    async def warm(self) -> int:
        """Load the entries that were wanted most into memory, as far as there is room; returns how many."""
        epoch = self._memory.epoch
        try:
            names = await self._hot.hottest()
            loaded, gone = await self._redis.load_by_name(names)
            await self._hot.forget(gone)
        except AwayError:
            return 0
        count = 0
        for name, (head, payload) in loaded.items():
            kept = self._remembered(payload, head.until / 1000, tuple(head.tags), tuple(head.versions))
            count += self._memory.put(name, kept, epoch, evict=False)
        self._counts.warmed += count
        return count

    async def keep_hot(self) -> None:
        """Tell Redis which entries were wanted."""
        await self._hot.flush()

    def dropped_elsewhere(self, names: Sequence[str]) -> None:
        """Another replica invalidated these."""
        self._memory.drop(names)

    def forget(self) -> None:
        """Invalidations may have been missed: memory cannot be trusted."""
        if not self.namespace.immutable:
            self._memory.clear()

    def snapshot(self) -> Snapshot:
        """What this process's part of the namespace did and holds."""
        counts, namespace = self._counts, self.namespace
        looks = counts.hits + counts.misses
        return Snapshot(
            name=namespace.name,
            entries=len(self._memory),
            bytes=self._memory.bytes,
            max_entries=namespace.memory_entries,
            max_bytes=namespace.memory_bytes,
            tiers=counts.tiers,
            hits=counts.hits,
            misses=counts.misses,
            hit_ratio=counts.hits / looks if looks else 0.0,
            makes=counts.makes,
            waits=counts.waits,
            evictions=self._memory.evictions,
            invalidations=counts.invalidations,
            errors=counts.errors,
            warmed=counts.warmed,
            degraded=namespace.redis and (self._link.away or not (namespace.immutable or self._hears())),
        )

    async def _look(self, keys: Sequence[Key], *, counted: bool = True) -> LookUp[T]:
        _require_bounded(len(keys))
        look: LookUp[T] = LookUp({}, epoch=self._memory.epoch)
        counts = self._counts if counted else Counts()
        wanted = list(dict.fromkeys(keys))
        held: dict[Key, Remembered] = {}
        if self.namespace.memory_entries:
            held = {key: kept for key in wanted if (kept := self._in_memory(key)) is not None}
        missing = [key for key in wanted if key not in held]
        checked = [key for key in held if key.tags] if self.namespace.verify else []
        if self.namespace.redis and (missing or checked):
            missing = await self._look_in_redis(look, missing, checked, held, counts)
        for key, kept in held.items():
            self._found(look, key, kept.payload, MEMORY, counts)
            if kept.versions is not None:
                look.versions.update(zip(kept.tags, kept.versions, strict=True))
        if self.namespace.memory_entries:
            counts.tiers[MEMORY].misses += len(wanted) - len(held)
        if self._durable is not None and missing:
            missing = await self._look_in_database(look, self._durable, missing, counts)
        look.missing = [key for key in wanted if key not in look.found]
        return look

    async def _look_in_redis(
        self, look: LookUp[T], missing: list[Key], checked: list[Key], held: dict[Key, Remembered], counts: Counts
    ) -> list[Key]:
        """Those not found. What `held` holds wrongly goes."""
        try:
            entries, look.versions = await self._redis.load(missing, [*missing, *checked])
            stale = [key for key in checked if not self._stands(held[key], look.versions)]
            if stale:
                # Another replica may have made them anew.
                again, versions = await self._redis.load(stale, stale)
                entries, look.versions = {**entries, **again}, {**look.versions, **versions}
        except AwayError:
            for key in checked:
                held.pop(key)
            return [*missing, *checked]
        for key in stale:
            held.pop(key)
            self._memory.discard(self._redis.entry_name(key))
        left = []
        for key in [*missing, *stale]:
            entry = entries.get(key)
            if entry is None or not self._found(look, key, entry[1], REDIS, counts):
                left.append(key)
                continue
            head, payload = entry
            self._remember(key, payload, head.until / 1000, tuple(head.versions), look.epoch)
        counts.tiers[REDIS].misses += len(left)
        return left

    async def _look_in_database(self, look: LookUp[T], durable: Durable, missing: list[Key], counts: Counts) -> list[Key]:
        try:
            entries = await durable.load(missing)
        except WireroomError as error:
            self._counts.errors += 1
            log.warning("cache.database_away", namespace=self.namespace.name, error=error.code)
            return missing
        promoted = {key: payload for key, payload in entries.items() if self._found(look, key, payload, DURABLE, counts)}
        await self._keep_in_redis(promoted, look)
        left = [key for key in missing if key not in promoted]
        counts.tiers[DURABLE].misses += len(left)
        return left

    def _found(self, look: LookUp[T], key: Key, payload: bytes, tier: str, counts: Counts) -> bool:
        try:
            look.found[key] = self._decoder.decode(payload)
        except msgspec.MsgspecError:
            # Kept by a version with another type.
            return False
        counts.tiers[tier].hits += 1
        counts.tiers[tier].bytes_read += len(payload)
        return True

    def _in_memory(self, key: Key) -> Remembered | None:
        now = self._clock.monotonic()
        kept = self._memory.get(self._redis.entry_name(key), now)
        if kept is None or self.namespace.immutable or not self.namespace.redis or self._hears():
            return kept
        # Others' invalidations do not arrive: what is verified needs no broadcast, the rest is trusted for a short time.
        return kept if self.namespace.verify or now - kept.stored_at < self.namespace.unheard_seconds else None

    def _stands(self, kept: Remembered, versions: Mapping[str, str | None]) -> bool:
        return kept.versions is not None and all(
            versions.get(tag) == version for tag, version in zip(kept.tags, kept.versions, strict=True)
        )

    async def _made(self, key: Key, make: Callable[[], Awaitable[T]], look: LookUp[T]) -> T:
        async def find() -> LookUp[T] | None:
            nonlocal look
            if first:
                first.clear()
                return None
            look = await self._look([key], counted=False)
            return look if key in look.found else None

        # The look-up that missed has just been made.
        first = [True]
        async with self.turn(key, find) as found:
            if found is not None:
                return found.found[key]
            self._counts.makes += 1
            value = await make()
            await self.set(key, value, look)
            return value

    async def _keep_in_redis(self, payloads: Mapping[Key, bytes], look: LookUp[T]) -> None:
        """In memory and in Redis."""
        seconds = {key: self.namespace.seconds * (1 - self.namespace.jitter * self._random()) for key in payloads}
        now = self._clock.now().timestamp()
        versions: dict[Key, tuple[str, ...] | None] = dict.fromkeys(payloads)
        if self.namespace.redis:
            try:
                written = await self._redis.save(
                    {key: (payload, seconds[key], now + seconds[key]) for key, payload in payloads.items()}, look.versions
                )
                versions.update(written)
            except AwayError:
                if self.namespace.verify:
                    return
        for key, payload in payloads.items():
            if not (self.namespace.verify and key.tags and versions[key] is None):
                self._remember(key, payload, now + seconds[key], versions[key], look.epoch)

    async def _keep_durably(self, payloads: Mapping[Key, bytes]) -> None:
        if self._durable is None or not payloads:
            return
        try:
            await self._durable.save(payloads)
        except WireroomError as error:
            self._counts.errors += 1
            log.warning("cache.database_away", namespace=self.namespace.name, error=error.code)
        else:
            self._counts.tiers[DURABLE].bytes_written += sum(len(payload) for payload in payloads.values())

    def _remember(self, key: Key, payload: bytes, until: float, versions: tuple[str, ...] | None, epoch: int) -> None:
        if not self.namespace.memory_entries:
            return
        tags = tuple(self._redis.tag_name(key.scope, tag) for tag in key.tags)
        kept = self._remembered(payload, until, tags, versions)
        if self._memory.put(self._redis.entry_name(key), kept, epoch):
            self._counts.tiers[MEMORY].bytes_written += len(payload)

    def _remembered(self, payload: bytes, until: float, tags: tuple[str, ...], versions: tuple[str, ...] | None) -> Remembered:
        now = self._clock.monotonic()
        return Remembered(payload, now + until - self._clock.now().timestamp(), now, tags, versions)

    async def _drop(self, names: Sequence[str], tell: Callable[[], Awaitable[None]]) -> None:
        self._memory.drop(names)
        self._counts.invalidations += 1
        if not self.namespace.redis:
            return
        try:
            await tell()
        except AwayError as error:
            raise WireroomError(
                ErrorKind.UNAVAILABLE,
                "cache_unavailable",
                "Redis did not take an invalidation of cached entries; try again shortly.",
                retry_after=1,
            ) from error
        # What was read from Redis while it was being told may be in memory again.
        self._memory.drop(names)


def _require_bounded(count: int) -> None:
    if count > MAX_KEYS:
        msg = f"At most {MAX_KEYS} keys at once."
        raise ValueError(msg)
