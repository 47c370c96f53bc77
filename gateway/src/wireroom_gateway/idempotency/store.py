"""Claims and answers in Redis or Valkey, shared by all replicas."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable
from typing import Any, TypeVar

from redis.asyncio import Redis
from redis.exceptions import RedisError

from wireroom_common.bus import Envelope
from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_gateway.idempotency.answers import StoredAnswer, seal, unseal
from wireroom_gateway.idempotency.keys import ScopedKey

T = TypeVar("T")

# A value is "P" and the claim's token while the request is in progress, "D" and the sealed answer afterwards.
_IN_PROGRESS = b"P"
_DONE = b"D"
_TOKEN = 16
SOURCE_EVENTS = frozenset({"rag.acl.changed", "rag.document.deleted"})
_SOURCES = "wireroom:gateway:sources:"
_CLAIM = """
local value = redis.call('GET', KEYS[1])
if value then return value end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return false
"""
# A claim that a server has forgotten (restarted, failed over) is taken up again; another's is left alone.
_PUT = """
local value = redis.call('GET', KEYS[1])
if value and value ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
return 1
"""
_RELEASE = """
if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end
return 0
"""


class InFlightError(Exception):
    """The key's first request is still in progress."""


class Claim:
    """The right to carry a request out; held until `finish` or `release`, or until it was not renewed for the lease's time."""

    def __init__(self, store: AnswerStore, key: ScopedKey) -> None:
        self._store = store
        self._key = key
        self._value = _IN_PROGRESS + os.urandom(_TOKEN)

    async def take(self) -> StoredAnswer | None:
        """None if the claim is ours now, else the answer that is there. `InFlightError`; UNAVAILABLE if the store is away."""
        found: bytes | None = await self._store.run(
            self._store.claim(keys=[self._key.name], args=[self._value, self._store.lease_ms])
        )
        if found is None:
            return None
        if found.startswith(_DONE):
            answer = unseal(found[1:], self._key.secret, self._key.name)
            if answer is not None:
                return answer
        raise InFlightError

    async def renew(self) -> None:
        """Hold the claim for another lease."""
        await self._store.run(self._store.put(keys=[self._key.name], args=[self._value, self._value, self._store.lease_ms]))

    async def finish(self, answer: StoredAnswer) -> None:
        """Store the answer."""
        value = _DONE + seal(answer, self._key.secret, self._key.name)
        await self._store.run(self._store.put(keys=[self._key.name], args=[self._value, value, self._store.keep_ms]))

    async def release(self) -> None:
        """Let the key be used as if nothing had been asked."""
        await self._store.run(self._store.drop(keys=[self._key.name], args=[self._value]))


class AnswerStore:
    """`keep` and `lease` in seconds: how long answers are kept, and how long a claim outlives a gateway that died."""

    def __init__(self, client: Redis, *, keep: float, lease: float, timeout: float) -> None:
        self.claim: Any = client.register_script(_CLAIM)
        self.put: Any = client.register_script(_PUT)
        self.drop: Any = client.register_script(_RELEASE)
        self.keep_ms = int(keep * 1000)
        self.lease = lease
        self.lease_ms = int(lease * 1000)
        self._timeout = timeout
        self._client = client

    async def sources_mark(self, tenant: str) -> str:
        """Changes whenever what people of the tenant may read was taken back from somebody; UNAVAILABLE if the store is away."""
        found = await self.run(self._client.get(f"{_SOURCES}{tenant}"))
        return found.hex() if isinstance(found, bytes) else ""

    async def on_event(self, envelope: Envelope) -> None:
        """Something was taken back from readers: answers that were asked for before this are not given again."""
        # An answer that is being made now is kept later than the mark: it must not outlive it.
        await self.run(self._client.set(f"{_SOURCES}{envelope.tenant_id or ''}", os.urandom(_TOKEN), px=2 * self.keep_ms))

    def new_claim(self, key: ScopedKey) -> Claim:
        """A claim on `key`, not yet taken."""
        return Claim(self, key)

    async def run(self, call: Awaitable[T]) -> T:
        """The outcome of a call to the store; UNAVAILABLE if it does not answer in time."""
        try:
            async with asyncio.timeout(self._timeout):
                return await call
        except (RedisError, OSError, TimeoutError) as error:
            raise WireroomError(
                ErrorKind.UNAVAILABLE,
                "idempotency_unavailable",
                "Whether this request was made before cannot be told at the moment, so it was not carried out. Try again with the same"
                " Idempotency-Key.",
                retry_after=2.0,
            ) from error
