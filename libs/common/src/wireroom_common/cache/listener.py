"""Hearing what other replicas invalidate, over Redis's publish and subscribe."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import msgspec
from redis.asyncio import Redis
from redis.asyncio.client import PubSub
from redis.exceptions import RedisError

from wireroom_common.clock import Clock
from wireroom_common.error_text import describe_error
from wireroom_common.logging import get_logger

CHANNEL = "wireroom:cache:dropped"
_HEARTBEAT = 0.5
# Without a sign of life for so long, others' invalidations are not heard.
_SILENCE = 2.0
_RETRY = 0.5

log = get_logger(__name__)


class Dropped(msgspec.Struct, array_like=True, frozen=True):
    """One invalidation: names of entries and tags of a namespace, and which process has told it."""

    origin: str
    namespace: str
    names: list[str]


class Listener:
    """Listens for as long as `run` runs, on one connection of the process's pool.

    `connected` is called each time listening (again) begins: what was dropped before has not been heard.
    """

    def __init__(
        self, redis: Redis, clock: Clock, dropped: Callable[[Dropped], None], connected: Callable[[], Awaitable[None]]
    ) -> None:
        self._redis = redis
        self._clock = clock
        self._dropped = dropped
        self._connected = connected
        self._heard_at: float | None = None

    def hears(self) -> bool:
        """Whether invalidations by others arrive."""
        return self._heard_at is not None and self._clock.monotonic() - self._heard_at < _SILENCE

    async def run(self) -> None:
        """For ever; reconnects."""
        lost = False
        while True:
            try:
                async with self._redis.pubsub() as channel:
                    await self._listen(channel)
            except (RedisError, OSError, TimeoutError) as error:
                if not lost:
                    log.warning("cache.invalidations_unheard", error=describe_error(error))
            finally:
                lost, self._heard_at = True, None
            await asyncio.sleep(_RETRY)

    async def _listen(self, channel: PubSub) -> None:
        await channel.subscribe(CHANNEL)
        while True:
            message = await channel.get_message(timeout=_HEARTBEAT)
            if message is not None:
                first, self._heard_at = self._heard_at is None, self._clock.monotonic()
                if first:
                    await self._connected()
                if message["type"] == "message":
                    self._take(message["data"])
                continue
            if self._heard_at is not None and not self.hears():
                msg = "No answer on the connection that hears invalidations."
                raise TimeoutError(msg)
            await channel.ping()

    def _take(self, data: bytes) -> None:
        try:
            self._dropped(msgspec.msgpack.decode(data, type=Dropped))
        except msgspec.MsgspecError:
            log.warning("cache.invalidation_unreadable")
