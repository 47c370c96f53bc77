"""Which sessions and keys are revoked, as far as tokens that live on could still name them."""

from __future__ import annotations

from collections import OrderedDict
from datetime import UTC, datetime

from wireroom_common.bus.envelope import Envelope
from wireroom_common.clock import Clock
from wireroom_common.logging import get_logger
from wireroom_common.rpc.context import acting_as_service
from wireroom_gateway.services import Services
from wireroom_protos.auth.v1 import auth_pb2
from wireroom_protos.events.v1 import events_pb2

_TIMEOUT = 5.0
_log = get_logger(__name__)


class Revocations:
    """A bounded map of revoked credential ids. Entries go when no access token can name them any more; when full, the oldest goes."""

    def __init__(self, services: Services, clock: Clock, *, remember_seconds: float, max_entries: int) -> None:
        self._services = services
        self._clock = clock
        self._remember = remember_seconds
        self._max = max_entries
        self._expiry: OrderedDict[str, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._expiry)

    def is_revoked(self, credential_id: str) -> bool:
        """Whether the session or key was revoked within the memory."""
        expiry = self._expiry.get(credential_id)
        return expiry is not None and expiry > self._clock.monotonic()

    def add(self, credential_id: str, revoked_at: datetime | None = None) -> None:
        """Remember a revocation; adding it again changes nothing that matters."""
        if not credential_id:
            return
        age = max(0.0, (self._clock.now() - revoked_at).total_seconds()) if revoked_at else 0.0
        expiry = self._clock.monotonic() + self._remember - age
        if expiry <= self._clock.monotonic():
            return
        self._expiry[credential_id] = max(expiry, self._expiry.get(credential_id, 0.0))
        self._expiry.move_to_end(credential_id)
        now = self._clock.monotonic()
        while self._expiry and (len(self._expiry) > self._max or next(iter(self._expiry.values())) <= now):
            _, expired_at = self._expiry.popitem(last=False)
            if expired_at > now:
                _log.error("revocation_map_full", entries=self._max)

    async def on_event(self, envelope: Envelope) -> None:
        """Handles `auth.session.revoked` and `auth.apikey.revoked`."""
        if envelope.type == "auth.session.revoked":
            self.add(envelope.payload(events_pb2.AuthSessionRevoked).session_id)
        elif envelope.type == "auth.apikey.revoked":
            self.add(envelope.payload(events_pb2.AuthApiKeyRevoked).key_id)

    async def resynchronise(self) -> None:
        """Ask `auth` for all that still matter: what the broadcast may have missed."""
        with acting_as_service():
            answer = await self._services.auth.ListRevocations(auth_pb2.ListRevocationsRequest(), timeout=_TIMEOUT)
        for revocation in answer.revocations:
            at = revocation.revoked_at.ToDatetime(tzinfo=UTC) if revocation.HasField("revoked_at") else None
            self.add(revocation.credential_id, at)
