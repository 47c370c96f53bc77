"""Who makes a missing entry: one caller of all replicas, the others wait."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from redis.asyncio import Redis
from redis.asyncio.lock import Lock
from redis.exceptions import LockError

from wireroom_common.cache.link import AwayError, Link
from wireroom_common.cache.statistics import Counts


@dataclass(frozen=True)
class Claim:
    """The right to make one entry; `lock` is None where only this process could be asked."""

    name: str
    ended: asyncio.Event
    lock: Lock | None


class Claims:
    """Of one namespace. Without Redis, or with `redis=False`, a claim holds in this process only."""

    def __init__(self, link: Link, counts: Counts, *, seconds: float, redis: bool) -> None:
        self._link = link
        self._counts = counts
        self._seconds = seconds
        self._redis = redis
        self._held: dict[str, asyncio.Event] = {}

    async def take(self, name: str) -> Claim | None:
        """The claim on `name`, or None while somebody has it."""
        if name in self._held:
            return None
        ended = asyncio.Event()
        self._held[name] = ended
        lock: Lock | None = None
        taken = not self._redis
        try:
            if self._redis:
                lock, taken = await self._lock(name)
        finally:
            if not taken:
                self._end(name, ended)
        return Claim(name, ended, lock) if taken else None

    async def wait(self, name: str, seconds: float) -> None:
        """Until whoever has the claim in this process gives it up, at most `seconds`."""
        held = self._held.get(name)
        if held is None:
            await asyncio.sleep(seconds)
            return
        try:
            async with asyncio.timeout(seconds):
                await held.wait()
        except TimeoutError:
            return

    async def release(self, claim: Claim) -> None:
        """The entry is made, or will not be."""
        self._end(claim.name, claim.ended)
        lock = claim.lock
        if lock is None:
            return
        try:
            await self._link.call(self._counts, lambda _: _released(lock))
        except AwayError:
            # It ends by its own time.
            return

    async def _lock(self, name: str) -> tuple[Lock | None, bool]:
        async def acquire(redis: Redis) -> tuple[Lock, bool]:
            lock = redis.lock(f"{name}:claim", timeout=self._seconds, blocking=False, thread_local=False)
            return lock, bool(await lock.acquire())

        try:
            return await self._link.call(self._counts, acquire)
        except AwayError:
            return None, True

    def _end(self, name: str, ended: asyncio.Event) -> None:
        ended.set()
        if self._held.get(name) is ended:
            del self._held[name]


async def _released(lock: Lock) -> None:
    try:
        await lock.release()
    except LockError:
        # Its time was over: somebody else may have it by now.
        return
