"""All caches of one process: what they share, and their background work."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar
from uuid import uuid4

from prometheus_client import CollectorRegistry
from redis.asyncio import Redis

from wireroom_common.cache.cache import Cache, Durable
from wireroom_common.cache.link import Link
from wireroom_common.cache.listener import Dropped, Listener
from wireroom_common.cache.namespace import Namespace
from wireroom_common.cache.packing import Sealing
from wireroom_common.cache.statistics import CacheCollector, Snapshot
from wireroom_common.clock import Clock
from wireroom_common.error_text import describe_error
from wireroom_common.logging import get_logger

T = TypeVar("T")
MAX_NAMESPACES = 64
_FLUSH_INTERVAL = 10.0

log = get_logger(__name__)


class Caches:
    """Opens namespaces; opens no connection before the first use.

    Between `start` and `stop` it hears what other replicas invalidate, and warms what wants to be warmed. Without it (or while Redis is
    away) memory is trusted for each namespace's `unheard_seconds` only.

    `redis=None`: this process has none, so that namespaces are kept in memory (and their database) only.
    """

    def __init__(
        self,
        redis: Redis | None,
        clock: Clock,
        registry: CollectorRegistry,
        *,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._clock = clock
        self._chance = chance
        self._origin = uuid4().hex
        self._redis = redis
        self._link = Link(redis, clock)
        self._listener = Listener(redis, clock, self._dropped, self._connected) if redis is not None else None
        self._caches: dict[str, Cache[Any]] = {}
        self._tasks: list[asyncio.Task[None]] = []
        registry.register(CacheCollector(self))

    def open(
        self, namespace: Namespace, kind: type[T], *, seal: Sealing | None = None, durable: Durable | None = None
    ) -> Cache[T]:
        """The cache of values of `kind`: what msgspec reads and writes (plain values, dataclasses, structs). Once per name."""
        if namespace.name in self._caches or len(self._caches) >= MAX_NAMESPACES:
            msg = f"Cache namespace '{namespace.name}' is open already, or there are {MAX_NAMESPACES}."
            raise ValueError(msg)
        if self._redis is None:
            # What cannot be verified is not kept at all.
            entries = 0 if namespace.verify else namespace.memory_entries
            namespace = replace(namespace, redis=False, verify=False, warm=0, memory_entries=entries)
        cache = Cache(
            namespace,
            kind,
            self._link,
            self._clock,
            hears=self.hears,
            origin=self._origin,
            random=self._chance,
            seal=seal,
            durable=durable,
        )
        self._caches[namespace.name] = cache
        return cache

    def start(self) -> None:
        """Begin to listen; nothing if there is no namespace that Redis keeps."""
        listener = self._listener
        if listener is not None and any(cache.namespace.redis for cache in self._caches.values()) and not self._tasks:
            self._tasks = [
                asyncio.create_task(listener.run(), name="cache invalidations"),
                asyncio.create_task(self._keep_hot(), name="cache wishes"),
            ]
            for task in self._tasks:
                task.add_done_callback(_ended)

    async def stop(self) -> None:
        """End the background work."""
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            while not task.done():
                task.cancel()
                await asyncio.wait([task], timeout=0.5)
        for cache in self._caches.values():
            # What was wanted last is what the next process warms.
            await cache.keep_hot()

    def hears(self) -> bool:
        """Whether invalidations by other replicas arrive."""
        return self._listener is not None and self._listener.hears()

    def snapshot(self) -> list[Snapshot]:
        """Every namespace of this process."""
        return [cache.snapshot() for cache in self._caches.values()]

    def _dropped(self, message: Dropped) -> None:
        cache = self._caches.get(message.namespace)
        if cache is not None and message.origin != self._origin:
            cache.dropped_elsewhere(message.names)

    async def _connected(self) -> None:
        caches = list(self._caches.values())
        for cache in caches:
            cache.forget()
        for cache in caches:
            if cache.namespace.warm:
                await cache.warm()

    async def _keep_hot(self) -> None:
        while True:
            await asyncio.sleep(_FLUSH_INTERVAL)
            for cache in list(self._caches.values()):
                await cache.keep_hot()


def _ended(task: asyncio.Task[None]) -> None:
    # The caches work without it, only worse: `wireroom_cache_degraded` stays 1.
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("cache.background_work_died", work=task.get_name(), error=describe_error(error))
