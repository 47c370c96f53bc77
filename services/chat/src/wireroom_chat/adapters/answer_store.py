"""Answers that may be given again: in memory and in Redis, packed and encrypted, each for its own time."""

from __future__ import annotations

import zlib
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID, uuid4

from cryptography.exceptions import InvalidTag
from prometheus_client import CollectorRegistry, Counter
from redis.asyncio import Redis
from redis.exceptions import RedisError

from wireroom_chat.adapters.sealing import Seal
from wireroom_common.clock import Clock
from wireroom_common.logging import get_logger

_PREFIX = "wireroom:chat:answers"
_MAX_ENTRY = 256 * 1024
_MAX_MEMORY = 16 * 1024 * 1024
_PACK_LEVEL = 1
# Longer than any watermark's entries live, so that one that is gone cannot come back while an entry names it.
_WATERMARK_SECONDS = 7 * 24 * 3600

log = get_logger(__name__)


class StoreMetrics:
    """Labels are closed lists."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.reads = Counter("wireroom_chat_answer_store_reads_total", "Entries looked for.", ["tier"], registry=registry)
        self.errors = Counter("wireroom_chat_answer_store_errors_total", "Calls of the store that failed.", registry=registry)


@dataclass(frozen=True)
class _Kept:
    value: bytes
    until: float


class AnswerStore:
    """Keys are hashes that hold the tenant and everything else an entry depends on. While Redis is away nothing is found or kept."""

    def __init__(self, redis: Redis, seal: Seal, clock: Clock, registry: CollectorRegistry) -> None:
        self._redis = redis
        self._seal = seal
        self._clock = clock
        self._metrics = StoreMetrics(registry)
        self._memory: OrderedDict[str, _Kept] = OrderedDict()
        self._bytes = 0

    async def watermark(self, tenant_id: UUID) -> str | None:
        """Changes whenever the tenant's sources do; None while it cannot be known."""
        key = f"{_PREFIX}:watermark:{tenant_id}"
        try:
            found = await self._redis.get(key)
            if found is None:
                await self._redis.set(key, uuid4().hex, ex=_WATERMARK_SECONDS, nx=True)
                found = await self._redis.get(key)
        except (RedisError, OSError):
            self._failed("watermark")
            return None
        return found.decode() if isinstance(found, bytes) else None

    async def sources_changed(self, tenant_id: UUID) -> None:
        """Let no answer from sources that was kept for the tenant be found again; raises when that cannot be done."""
        await self._redis.set(f"{_PREFIX}:watermark:{tenant_id}", uuid4().hex, ex=_WATERMARK_SECONDS)

    async def get(self, keys: Sequence[str]) -> list[bytes | None]:
        """The entries, in order."""
        found = [self._remembered(key) for key in keys]
        missing = [number for number, value in enumerate(found) if value is None]
        if not missing:
            self._metrics.reads.labels("memory").inc()
            return found
        try:
            answers = await self._redis.mget([f"{_PREFIX}:{keys[number]}" for number in missing])
        except (RedisError, OSError):
            self._failed("get")
            return found
        for number, sealed in zip(missing, answers, strict=True):
            found[number] = self._opened(keys[number], sealed) if isinstance(sealed, bytes) else None
        self._metrics.reads.labels("redis" if any(answers) else "none").inc()
        return found

    async def put(self, entries: Mapping[str, bytes], seconds: float) -> None:
        """Keep entries for `seconds`. Too large ones are not kept."""
        packed = {key: zlib.compress(value, _PACK_LEVEL) for key, value in entries.items() if len(value) <= _MAX_ENTRY}
        if not packed:
            return
        try:
            async with self._redis.pipeline(transaction=False) as pipe:
                for key, value in packed.items():
                    pipe.set(f"{_PREFIX}:{key}", self._seal.close(value, key.encode()), px=round(seconds * 1000))
                await pipe.execute()
        except (RedisError, OSError):
            self._failed("put")
            return
        for key in packed:
            self._remember(key, entries[key], seconds)

    async def claim(self, key: str, owner: str, seconds: float) -> bool:
        """Whether `owner` is the one to make the entry now; true also when nobody can tell."""
        try:
            return bool(await self._redis.set(f"{_PREFIX}:claim:{key}", owner, px=round(seconds * 1000), nx=True))
        except (RedisError, OSError):
            self._failed("claim")
            return True

    async def release(self, key: str, owner: str) -> None:
        """The entry is made, or will not be."""
        name = f"{_PREFIX}:claim:{key}"
        try:
            if await self._redis.get(name) == owner.encode():
                await self._redis.delete(name)
        except (RedisError, OSError):
            self._failed("release")

    def _opened(self, key: str, sealed: bytes) -> bytes | None:
        try:
            return zlib.decompress(self._seal.open(sealed, key.encode()))
        except (InvalidTag, zlib.error, ValueError):
            # Of another master secret, or changed: as good as none.
            return None

    def _remembered(self, key: str) -> bytes | None:
        kept = self._memory.get(key)
        if kept is None:
            return None
        if kept.until <= self._clock.monotonic():
            self._forget(key)
            return None
        self._memory.move_to_end(key)
        return kept.value

    def _remember(self, key: str, value: bytes, seconds: float) -> None:
        self._forget(key)
        self._memory[key] = _Kept(value, self._clock.monotonic() + seconds)
        self._bytes += len(value)
        while self._bytes > _MAX_MEMORY:
            self._forget(next(iter(self._memory)))

    def _forget(self, key: str) -> None:
        kept = self._memory.pop(key, None)
        if kept is not None:
            self._bytes -= len(kept.value)

    def _failed(self, what: str) -> None:
        self._metrics.errors.inc()
        log.warning("chat.answer_store.failed", call=what)
