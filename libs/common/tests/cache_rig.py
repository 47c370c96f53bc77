"""Replicas of a cache over one real Valkey."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import redis.asyncio
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from prometheus_client import CollectorRegistry

from wireroom_common.cache import Cache, Caches, Namespace
from wireroom_common.clock import Clock, ManualClock
from wireroom_common.testing.polling import eventually

A = UUID("0198a000-0000-7000-8000-00000000000a")
B = UUID("0198a000-0000-7000-8000-00000000000b")


class Seal:
    """AES-GCM under a random key."""

    def __init__(self) -> None:
        self._cipher = AESGCM(secrets.token_bytes(32))

    def close(self, plaintext: bytes, bound_to: bytes) -> bytes:
        nonce = secrets.token_bytes(12)
        return nonce + self._cipher.encrypt(nonce, plaintext, bound_to)

    def open(self, sealed: bytes, bound_to: bytes) -> bytes:
        return self._cipher.decrypt(sealed[:12], sealed[12:], bound_to)


@dataclass
class Replica:
    """One process's caches, with a client of its own."""

    caches: Caches
    client: redis.asyncio.Redis
    registry: CollectorRegistry

    def open(
        self, *, name: str = "test.values", kind: type[Any] = str, seal: Any = None, durable: Any = None, **options: Any
    ) -> Cache[Any]:
        namespace = Namespace(name, **{"seconds": 60, **options})
        return self.caches.open(namespace, kind, seal=seal, durable=durable)

    async def listening(self) -> None:
        """Begin to hear the others."""
        self.caches.start()
        await eventually(self.caches.hears)


@dataclass
class Rig:
    """Makes replicas; all are ended with it."""

    url: str
    stack: AsyncExitStack
    clock: Clock = field(default_factory=ManualClock)

    def replica(self, *, chance: Callable[[], float] = lambda: 0.0, clock: Clock | None = None) -> Replica:
        # As the runtime's: a pool that waits, and short limits.
        client = redis.asyncio.Redis.from_pool(
            redis.asyncio.BlockingConnectionPool.from_url(
                self.url, max_connections=20, timeout=5, socket_timeout=5, socket_connect_timeout=2
            )
        )
        registry = CollectorRegistry()
        caches = Caches(client, clock or self.clock, registry, chance=chance)
        self.stack.push_async_callback(client.aclose)
        self.stack.push_async_callback(caches.stop)
        return Replica(caches, client, registry)


@asynccontextmanager
async def rig_on(url: str) -> AsyncIterator[Rig]:
    async with AsyncExitStack() as stack:
        yield Rig(url, stack)
