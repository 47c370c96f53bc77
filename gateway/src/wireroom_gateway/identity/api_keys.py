"""API keys: asked for at `auth`, believed for a moment."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from uuid import UUID

from wireroom_common.bus.envelope import Envelope
from wireroom_common.clock import Clock
from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_common.principal import ANONYMOUS, Principal, PrincipalKind, set_current_principal
from wireroom_common.rpc.context import acting_as_service
from wireroom_gateway.identity.revocations import Revocations
from wireroom_gateway.identity.tokens import credential_refused
from wireroom_gateway.services import Services
from wireroom_protos.auth.v1 import auth_pb2
from wireroom_protos.events.v1 import events_pb2

PREFIX = "wr_"
_SHAPE = re.compile(r"wr_[A-Za-z0-9_-]{16,200}", re.ASCII)


@dataclass(frozen=True)
class SigningSecret:
    """A secret that requests may be signed with, until a wall-clock time (None: as long as the key)."""

    secret: bytes = field(repr=False)
    until: float | None = None


@dataclass(frozen=True)
class KnownKey:
    """A live key. `limits`: its own requests per minute by bucket. `expires_at`: wall-clock end, None for none."""

    principal: Principal
    expires_at: float | None = None
    limits: Mapping[str, int] = field(default_factory=dict)
    signature_required: bool = False
    signing_secrets: tuple[SigningSecret, ...] = ()


@dataclass(frozen=True)
class _Entry:
    # None: refused.
    key: KnownKey | None
    until: float


class ApiKeyVerifier:
    """Turns an API key, or the id of one, into what is known of it. The caches of good and (briefly) of bad keys are bounded.

    Secrets are looked up by the whole SHA-256. There is one question at a time per key. A changed key is forgotten by event.
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
        # Apart, so that a flood of made-up keys does not push the good ones out.
        self._refused: OrderedDict[bytes, _Entry] = OrderedDict()
        self._asking: dict[bytes, asyncio.Task[_Entry]] = {}
        # Counts changes: an answer that was on its way meanwhile may be older than the change.
        self._changes = 0

    async def verify(self, secret: str) -> tuple[KnownKey, bool]:
        """The key with this secret, and whether it was known. UNAUTHENTICATED for a bad key, UNAVAILABLE when `auth` cannot say."""
        if not _SHAPE.fullmatch(secret):
            raise credential_refused("The API key is malformed.")
        digest = hashlib.sha256(secret.encode("ascii")).digest()
        key, cached = await self._known(digest, auth_pb2.VerifyKeyRequest(secret=secret))
        if key.signature_required:
            raise credential_refused("Requests with this API key must be signed; the key itself is not accepted.")
        return key, cached

    async def named(self, key_id: UUID) -> tuple[KnownKey, bool]:
        """The key with this id, which somebody claims to hold: nothing is proven by it. Errors as in `verify`."""
        return await self._known(b"id:" + key_id.bytes, auth_pb2.VerifyKeyRequest(key_id=str(key_id)))

    async def on_event(self, envelope: Envelope) -> None:
        """Handles `auth.apikey.changed` and `auth.apikey.revoked`: the next request asks again."""
        if envelope.type == "auth.apikey.changed":
            self._forget(envelope.payload(events_pb2.AuthApiKeyChanged).key_id)
        elif envelope.type == "auth.apikey.revoked":
            self._forget(envelope.payload(events_pb2.AuthApiKeyRevoked).key_id)

    def _forget(self, key_id: str) -> None:
        self._changes += 1
        # Who asks from now on must not get the answer to an older question.
        self._asking.clear()
        gone = [name for name, entry in self._cache.items() if entry.key and entry.key.principal.credential_id == key_id]
        for name in gone:
            del self._cache[name]

    async def _known(self, name: bytes, question: auth_pb2.VerifyKeyRequest) -> tuple[KnownKey, bool]:
        entry = self._cache.get(name) or self._refused.get(name)
        cached = entry is not None and entry.until > self._clock.monotonic() and not self._is_outdated(entry)
        if entry is None or not cached:
            entry = await self._ask_once(name, question)
            if self._is_outdated(entry):
                # The question was on its way when the owner's rights changed.
                entry = await self._ask_once(name, question)
        key = entry.key
        if key is None:
            raise credential_refused("The API key is not valid.")
        expired = key.expires_at is not None and self._clock.now().timestamp() >= key.expires_at
        if expired or self._revocations.is_revoked(key.principal.credential_id):
            raise credential_refused("The API key has expired or was revoked.")
        return key, cached

    def _is_outdated(self, entry: _Entry) -> bool:
        return entry.key is not None and self._revocations.is_outdated(entry.key.principal)

    async def _ask_once(self, name: bytes, question: auth_pb2.VerifyKeyRequest) -> _Entry:
        task = self._asking.get(name)
        if task is None:
            task = self._asking[name] = asyncio.create_task(self._ask(name, question))
            task.add_done_callback(lambda done: self._asked(name, done))
        # A caller that goes away must not take the answer from the others.
        return await asyncio.shield(task)

    def _asked(self, name: bytes, task: asyncio.Task[_Entry]) -> None:
        if self._asking.get(name) is task:
            del self._asking[name]
        if not task.cancelled():
            # Marks a failure as seen, should every caller have gone away.
            task.exception()

    async def _ask(self, name: bytes, question: auth_pb2.VerifyKeyRequest) -> _Entry:
        now, changes = self._clock.monotonic(), self._changes
        try:
            if question.key_id:
                with acting_as_service():
                    answer = await self._services.api_keys.VerifyKey(question, timeout=self._timeout)
            else:
                set_current_principal(ANONYMOUS)
                answer = await self._services.api_keys.VerifyKey(question, timeout=self._timeout)
        except WireroomError as error:
            if error.kind is not ErrorKind.UNAUTHENTICATED:
                raise
            entry = _Entry(None, now + self._bad_seconds)
        else:
            entry = _Entry(_key_of(answer), now + self._good_seconds)
        if changes == self._changes:
            self._remember(name, entry)
        return entry

    def _remember(self, name: bytes, entry: _Entry) -> None:
        kept, other = (self._refused, self._cache) if entry.key is None else (self._cache, self._refused)
        other.pop(name, None)
        kept[name] = entry
        kept.move_to_end(name)
        while len(kept) > self._cache_size:
            kept.popitem(last=False)


def _key_of(answer: auth_pb2.VerifyKeyResponse) -> KnownKey:
    secrets = []
    if answer.signing_secret:
        secrets.append(SigningSecret(answer.signing_secret))
    if answer.previous_signing_secret and answer.HasField("previous_until"):
        secrets.append(SigningSecret(answer.previous_signing_secret, answer.previous_until.ToMicroseconds() / 1e6))
    return KnownKey(
        Principal(
            PrincipalKind.API_KEY,
            subject=answer.user_id,
            tenant_id=UUID(answer.tenant_id),
            roles=frozenset(answer.roles),
            permissions=frozenset(answer.permissions),
            credential_id=answer.key_id,
            epoch=answer.epoch,
            tenant_epoch=answer.tenant_epoch,
        ),
        expires_at=answer.expires_at.ToMicroseconds() / 1e6 if answer.HasField("expires_at") else None,
        limits=dict(answer.limits),
        signature_required=answer.signature_required,
        signing_secrets=tuple(secrets),
    )
