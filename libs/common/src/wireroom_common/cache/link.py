"""The way to Redis: short time limits, and a pause after a failure, so that a cache never costs more than it saves."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from redis.asyncio import Redis
from redis.exceptions import RedisError

from wireroom_common.cache.statistics import Counts
from wireroom_common.clock import Clock
from wireroom_common.error_text import describe_error
from wireroom_common.logging import get_logger

_T = TypeVar("_T")
_LIMIT = 1.0
_PAUSE = 1.0

log = get_logger(__name__)


class AwayError(Exception):
    """Redis did not do it."""


class Link:
    """The process's Redis client, for caches. `away` says whether the last call failed."""

    def __init__(self, redis: Redis | None, clock: Clock) -> None:
        self._redis = redis
        self._clock = clock
        self._again_at = 0.0
        self.away = False

    async def call(self, counts: Counts, operation: Callable[[Redis], Awaitable[_T]], *, now: bool = False) -> _T:
        """The operation's result; AwayError when it failed, took more than a second, or another did so within the last second.

        `now`: try, whatever happened a moment ago.
        """
        if self._redis is None:
            raise AwayError
        if self.away and not now and self._clock.monotonic() < self._again_at:
            raise AwayError
        try:
            async with asyncio.timeout(_LIMIT):
                result = await operation(self._redis)
        except (RedisError, OSError, TimeoutError) as error:
            counts.errors += 1
            if not self.away:
                log.warning("cache.redis_away", error=describe_error(error))
            self.away = True
            self._again_at = self._clock.monotonic() + _PAUSE
            raise AwayError from error
        if self.away:
            log.info("cache.redis_back")
            self.away = False
        return result
