"""Which entries of a namespace are wanted most: counted here, remembered in one bounded sorted set for all replicas."""

from __future__ import annotations

from redis.asyncio import Redis

from wireroom_common.cache.link import AwayError, Link
from wireroom_common.cache.statistics import Counts

_MAX_COUNTED = 10_000
# At each flush earlier wishes lose this share, so that yesterday's favourites go.
_KEPT_WEIGHT = 0.9
_SECONDS = 7 * 24 * 3600


class HotKeys:
    """Of one namespace; `limit` names are remembered, none at 0."""

    def __init__(self, link: Link, counts: Counts, set_name: str, limit: int) -> None:
        self._link = link
        self._counts = counts
        self._set = set_name
        self._limit = limit
        self._wanted: dict[str, int] = {}

    def wanted(self, name: str) -> None:
        """Somebody asked for the entry and got it."""
        if self._limit and (name in self._wanted or len(self._wanted) < _MAX_COUNTED):
            self._wanted[name] = self._wanted.get(name, 0) + 1

    async def flush(self) -> None:
        """Add what was wanted since the last flush to the set; kept for the next flush while Redis is away."""
        if not self._wanted:
            return
        best = dict(sorted(self._wanted.items(), key=lambda item: -item[1])[: self._limit])

        async def add(redis: Redis) -> None:
            async with redis.pipeline(transaction=False) as pipe:
                pipe.zunionstore(self._set, {self._set: _KEPT_WEIGHT})
                for name, times in best.items():
                    pipe.zincrby(self._set, times, name)
                pipe.zremrangebyrank(self._set, 0, -self._limit - 1)
                pipe.expire(self._set, _SECONDS)
                await pipe.execute()

        try:
            await self._link.call(self._counts, add)
        except AwayError:
            return
        self._wanted.clear()

    async def hottest(self) -> list[str]:
        """The most wanted names, best first; raises AwayError."""

        async def read(redis: Redis) -> list[str]:
            names = await redis.zrevrange(self._set, 0, self._limit - 1)
            return [name.decode() for name in names if isinstance(name, bytes)]

        return await self._link.call(self._counts, read) if self._limit else []

    async def forget(self, names: list[str]) -> None:
        """Entries that are not there any more; raises AwayError."""

        async def remove(redis: Redis) -> None:
            await redis.zrem(self._set, *names)

        if names:
            await self._link.call(self._counts, remove)
