"""API keys: asked for at `auth`, believed for a moment."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections import OrderedDict
from dataclasses import dataclass
from uuid import UUID

from wireroom_common.clock import Clock
from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_common.principal import ANONYMOUS, Principal, PrincipalKind, set_current_principal
from wireroom_gateway.identity.revocations import Revocations
from wireroom_gateway.identity.tokens import credential_refused
from wireroom_gateway.services import Services
from wireroom_protos.auth.v1 import auth_pb2

PREFIX = "wr_"
_SHAPE = re.compile(r"wr_[A-Za-z0-9_-]{16,200}", re.ASCII)


@dataclass(frozen=True)
class _Entry:
    # None: refused.
    principal: Principal | None
    until: float
    # Wall-clock end of the key itself; None: none.
    expires_at: float | None


class ApiKeyVerifier:
    """Turns an API key into a principal. The cache is bounded, goes by hash, and holds bad keys too (briefly).

    There is one question at a time per key.
    """

    def __init__(
        self,
        services: Services,
        revocations: Revocations,
        clock: Clock,
        *,
        cache_size: int,
        good_seconds: float,
        bad_seconds: float,
        timeout: float,
    ) -> None:
        self._services = services
        self._revocations = revocations
        self._clock = clock
        self._cache_size = cache_size
        self._good_seconds = good_seconds
        self._bad_seconds = bad_seconds
        self._timeout = timeout
        self._cache: OrderedDict[bytes, _Entry] = OrderedDict()
        self._asking: dict[bytes, asyncio.Task[_Entry]] = {}

    async def verify(self, secret: str) -> tuple[Principal, bool]:
        """The principal, and whether it came from the cache. UNAUTHENTICATED for a bad key, UNAVAILABLE when `auth` cannot say."""
        if not _SHAPE.fullmatch(secret):
            raise credential_refused("The API key is malformed.")
        digest = hashlib.sha256(secret.encode("ascii")).digest()
        entry = self._cache.get(digest)
        cached = entry is not None and entry.until > self._clock.monotonic()
        if entry is None or not cached:
            entry = await self._ask_once(digest, secret)
        if entry.principal is None:
            raise credential_refused("The API key is not valid.")
        expired = entry.expires_at is not None and self._clock.now().timestamp() >= entry.expires_at
        if expired or self._revocations.is_revoked(entry.principal.credential_id):
            raise credential_refused("The API key has expired or was revoked.")
        return entry.principal, cached

    async def _ask_once(self, digest: bytes, secret: str) -> _Entry:
        task = self._asking.get(digest)
        if task is None:
            task = self._asking[digest] = asyncio.create_task(self._ask(digest, secret))
            task.add_done_callback(lambda done: self._asked(digest, done))
        # A caller that goes away must not take the answer from the others.
        return await asyncio.shield(task)

    def _asked(self, digest: bytes, task: asyncio.Task[_Entry]) -> None:
        self._asking.pop(digest, None)
        if not task.cancelled():
            # Marks a failure as seen, should every caller have gone away.
            task.exception()

    async def _ask(self, digest: bytes, secret: str) -> _Entry:
        set_current_principal(ANONYMOUS)
        now = self._clock.monotonic()
        try:
            answer = await self._services.api_keys.VerifyKey(auth_pb2.VerifyKeyRequest(secret=secret), timeout=self._timeout)
        except WireroomError as error:
            if error.kind is not ErrorKind.UNAUTHENTICATED:
                raise
            entry = _Entry(None, now + self._bad_seconds, None)
        else:
            principal = Principal(
                PrincipalKind.API_KEY,
                subject=answer.user_id,
                tenant_id=UUID(answer.tenant_id),
                roles=frozenset(answer.roles),
                permissions=frozenset(answer.permissions),
                credential_id=answer.key_id,
            )
            expires_at = answer.expires_at.ToMicroseconds() / 1e6 if answer.HasField("expires_at") else None
            entry = _Entry(principal, now + self._good_seconds, expires_at)
        self._cache[digest] = entry
        self._cache.move_to_end(digest)
        while len(self._cache) > self._cache_size:
            self._cache.popitem(last=False)
        return entry
