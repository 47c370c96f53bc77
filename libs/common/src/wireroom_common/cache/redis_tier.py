"""The second tier: Redis, shared by all replicas; each operation is one round trip."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from uuid import uuid4

import msgspec
from redis.asyncio import Redis

from wireroom_common.cache.keys import Key, Scope, scope_name
from wireroom_common.cache.link import Link
from wireroom_common.cache.listener import CHANNEL, Dropped
from wireroom_common.cache.namespace import Namespace
from wireroom_common.cache.packing import Head, Packing
from wireroom_common.cache.statistics import REDIS, Counts
from wireroom_common.clock import Clock

_PREFIX = "wireroom:cache"
# Versions outlive the entries that name them; one that is gone makes its entries misses, never wrong.
_MIN_TAG_SECONDS = 24 * 3600

Entry = tuple[Head, bytes]


class RedisTier:
    """Of one namespace. Every method raises AwayError when Redis did not do it."""

    def __init__(self, namespace: Namespace, link: Link, clock: Clock, *, counts: Counts, packing: Packing, origin: str) -> None:
        self._clock = clock
        self._namespace = namespace
        self._link = link
        self._counts = counts
        self._packing = packing
        self._origin = origin
        self._start = f"{_PREFIX}:{namespace.name}:"
        self._tag_seconds = max(_MIN_TAG_SECONDS, round(2 * namespace.seconds))
        self.hot_name = f"{self._start}hot"

    def entry_name(self, key: Key) -> str:
        """Where the key's entry stands."""
        return f"{self._start}{scope_name(key.scope)}:{key.digest.hex()}"

    def tag_name(self, scope: Scope, tag: str) -> str:
        """Where the tag's version stands."""
        return f"{self._start}{scope_name(scope)}:tag:{tag}"

    async def load(self, keys: Sequence[Key], tagged: Sequence[Key]) -> tuple[dict[Key, Entry], dict[str, str | None]]:
        """Entries of `keys` that stand, and the versions of all tags of `tagged` (which includes `keys`)."""
        names = [self.entry_name(key) for key in keys]
        tags = list(dict.fromkeys(self.tag_name(key.scope, tag) for key in tagged for tag in key.tags))
        found = await self._link.call(self._counts, lambda redis: _values(redis, [*names, *tags]))
        versions = {tag: _text(value) for tag, value in zip(tags, found[len(names) :], strict=True)}
        entries = {}
        for key, name, value in zip(keys, names, found[: len(names)], strict=True):
            entry = self._packing.unpack(name, value) if value is not None else None
            if entry is not None and self._stands(entry[0], [self.tag_name(key.scope, tag) for tag in key.tags], versions):
                entries[key] = entry
        return entries, versions

    async def load_by_name(self, names: Sequence[str]) -> tuple[dict[str, Entry], list[str]]:
        """Entries that stand, and the names of those that do not."""
        if not names:
            return {}, []
        found = await self._link.call(self._counts, lambda redis: _values(redis, list(names)))
        entries = {
            name: entry
            for name, value in zip(names, found, strict=True)
            if value is not None and (entry := self._packing.unpack(name, value)) is not None
        }
        tags = list(dict.fromkeys(tag for head, _ in entries.values() for tag in head.tags))
        values = await self._link.call(self._counts, lambda redis: _values(redis, tags)) if tags else []
        versions = {tag: _text(value) for tag, value in zip(tags, values, strict=True)}
        standing = {name: entry for name, entry in entries.items() if self._stands(entry[0], entry[0].tags, versions)}
        return standing, [name for name in names if name not in standing]

    async def save(
        self, entries: Mapping[Key, tuple[bytes, float, float]], versions: Mapping[str, str | None]
    ) -> dict[Key, tuple[str, ...]]:
        """Keep (payload, seconds, end as Unix time) by key, made under `versions`; returns the versions they were kept under.

        A tag without a version gets one, unless somebody else gives it one first: then this entry does not stand, which is safe. Entries
        whose tags' versions are not known are left out.
        """
        given: dict[str, str] = {}
        packed: dict[str, tuple[bytes, float]] = {}
        kept: dict[Key, tuple[str, ...]] = {}
        for key, (payload, seconds, until) in entries.items():
            tags = [self.tag_name(key.scope, tag) for tag in key.tags]
            if any(tag not in versions for tag in tags):
                continue
            under = [versions[tag] or given.setdefault(tag, uuid4().hex) for tag in tags]
            name = self.entry_name(key)
            packed[name] = self._packing.pack(name, Head(round(until * 1000), tags, under), payload), seconds
            kept[key] = tuple(under)
        tags = list(dict.fromkeys(self.tag_name(key.scope, tag) for key in kept for tag in key.tags))

        async def write(redis: Redis) -> None:
            async with redis.pipeline(transaction=False) as pipe:
                for tag in tags:
                    if tag in given:
                        pipe.set(tag, given[tag], nx=True, ex=self._tag_seconds)
                    else:
                        pipe.expire(tag, self._tag_seconds)
                for name, (entry, seconds) in packed.items():
                    pipe.set(name, entry, px=max(1, round(seconds * 1000)))
                await pipe.execute()

        if packed:
            await self._link.call(self._counts, write)
            self._counts.tiers[REDIS].bytes_written += sum(len(entry) for entry, _ in packed.values())
        return kept

    async def delete(self, names: Sequence[str]) -> None:
        """Let entries go and tell the others."""

        async def remove(redis: Redis) -> None:
            async with redis.pipeline(transaction=True) as pipe:
                pipe.unlink(*names)
                pipe.publish(CHANNEL, self._message(names))
                await pipe.execute()

        await self._link.call(self._counts, remove, now=True)

    async def new_versions(self, tags: Sequence[str]) -> None:
        """Give tags other versions, which ends all entries made under the old ones, and tell the others."""

        async def change(redis: Redis) -> None:
            async with redis.pipeline(transaction=True) as pipe:
                for tag in tags:
                    pipe.set(tag, uuid4().hex, ex=self._tag_seconds)
                pipe.publish(CHANNEL, self._message(tags))
                await pipe.execute()

        await self._link.call(self._counts, change, now=True)

    def _message(self, names: Sequence[str]) -> bytes:
        return msgspec.msgpack.encode(Dropped(self._origin, self._namespace.name, list(names)))

    def _stands(self, head: Head, tags: Sequence[str], versions: Mapping[str, str | None]) -> bool:
        in_time = head.until > self._clock.now().timestamp() * 1000
        return (
            in_time
            and head.tags == list(tags)
            and all(versions[tag] == version for tag, version in zip(head.tags, head.versions, strict=True))
        )


async def _values(redis: Redis, names: list[str]) -> list[bytes | None]:
    return [value if isinstance(value, bytes) else None for value in await redis.mget(names)]


def _text(value: bytes | None) -> str | None:
    return value.decode() if value is not None else None
