"""Which sessions and keys are revoked and which epochs raised, as far as tokens that live on could still name them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from datetime import UTC, datetime
from uuid import UUID

from google.protobuf.timestamp_pb2 import Timestamp

from wireroom_common.bus.envelope import Envelope
from wireroom_common.clock import Clock
from wireroom_common.logging import get_logger
from wireroom_common.principal import Principal
from wireroom_common.rpc.context import acting_as_service
from wireroom_gateway.identity.epochs import RaisedEpochs
from wireroom_gateway.services import Services
from wireroom_protos.auth.v1 import auth_pb2
from wireroom_protos.events.v1 import events_pb2

EVENTS = frozenset({"auth.session.revoked", "auth.apikey.revoked", "auth.epoch.raised"})
_TIMEOUT = 5.0
_log = get_logger(__name__)


class Revocations:
    """A bounded map of revoked credential ids, and the raised epochs.

    Entries go when no access token can name them any more; when full, the oldest goes.
    """

    def __init__(self, services: Services, clock: Clock, *, remember_seconds: float, max_entries: int) -> None:
        self._services = services
        self._clock = clock
        self._remember = remember_seconds
        self._max = max_entries
        self._expiry: OrderedDict[str, float] = OrderedDict()
        self._epochs = RaisedEpochs(clock, remember_seconds=remember_seconds, max_entries=max_entries)
        self._watches: dict[int, tuple[Principal, Callable[[], None]]] = {}
        # What a change concerns (credential, user or tenant) → the watches to look at.
        self._watched: dict[str, set[int]] = {}
        self._last_watch = 0

    def __len__(self) -> int:
        return len(self._expiry)

    def is_revoked(self, credential_id: str) -> bool:
        """Whether the session or key was revoked within the memory."""
        expiry = self._expiry.get(credential_id)
        return expiry is not None and expiry > self._clock.monotonic()

    def is_outdated(self, principal: Principal) -> bool:
        """Whether the rights in the credential are those of an older epoch of its user or tenant."""
        return self._epochs.is_void(principal)

    def is_void(self, principal: Principal) -> bool:
        """Whether the credential that the principal was read from is of no use any more."""
        return self.is_revoked(principal.credential_id) or self.is_outdated(principal)

    def watch(self, principal: Principal, on_void: Callable[[], None]) -> Callable[[], None]:
        """For what outlasts a request (a WebSocket, to be closed with 4401): call `on_void` once, when the credential becomes void.

        At once if it is void already. `on_void` must not block; what it raises is logged. The result ends the watch.
        """
        self._last_watch += 1
        number = self._last_watch
        self._watches[number] = (principal, on_void)
        for subject in _subjects(principal):
            self._watched.setdefault(subject, set()).add(number)
        self._look_at({number})
        return lambda: self._unwatch(number)

    def add(self, credential_id: str, revoked_at: datetime | None = None) -> None:
        """Remember a revocation; adding it again changes nothing that matters."""
        if not credential_id:
            return
        now = self._clock.monotonic()
        expiry = now + self._remember - self._age(revoked_at)
        if expiry <= now:
            return
        self._expiry[credential_id] = max(expiry, self._expiry.get(credential_id, 0.0))
        self._expiry.move_to_end(credential_id)
        while self._expiry and (len(self._expiry) > self._max or next(iter(self._expiry.values())) <= now):
            _, expired_at = self._expiry.popitem(last=False)
            if expired_at > now:
                _log.error("revocation_map_full", entries=self._max)
        self._look_at(self._watched.get(credential_id, set()))

    def raise_epoch(self, tenant_id: str, user_id: str, epoch: int, raised_at: datetime | None = None) -> None:
        """Remember a raised epoch, of the whole tenant without a user; one that was known, or a lower one, changes nothing."""
        subject = user_id or tenant_id
        if self._epochs.add(subject, epoch, self._age(raised_at)):
            self._look_at(self._watched.get(subject, set()))

    async def on_event(self, envelope: Envelope) -> None:
        """Handles the events in `EVENTS`."""
        if envelope.type == "auth.session.revoked":
            self.add(envelope.payload(events_pb2.AuthSessionRevoked).session_id)
        elif envelope.type == "auth.apikey.revoked":
            self.add(envelope.payload(events_pb2.AuthApiKeyRevoked).key_id)
        elif envelope.type == "auth.epoch.raised":
            raised = envelope.payload(events_pb2.AuthEpochRaised)
            self.raise_epoch(raised.tenant_id, raised.user_id, raised.epoch)

    async def resynchronise(self) -> None:
        """Ask `auth` for all that still matter: what the broadcast may have missed."""
        with acting_as_service():
            answer = await self._services.auth.ListRevocations(auth_pb2.ListRevocationsRequest(), timeout=_TIMEOUT)
        for revocation in answer.revocations:
            self.add(revocation.credential_id, _moment(revocation.HasField("revoked_at"), revocation.revoked_at))
        for raised in answer.epochs:
            self.raise_epoch(
                raised.tenant_id, raised.user_id, raised.epoch, _moment(raised.HasField("raised_at"), raised.raised_at)
            )

    def _age(self, at: datetime | None) -> float:
        return max(0.0, (self._clock.now() - at).total_seconds()) if at else 0.0

    def _look_at(self, numbers: set[int]) -> None:
        for number in tuple(numbers):
            principal, on_void = self._watches[number]
            if self.is_void(principal):
                self._unwatch(number)
                try:
                    on_void()
                except Exception:  # noqa: BLE001 - one bad watcher must keep neither the others nor the revocation from taking effect
                    _log.exception("revocation_watch_failed")

    def _unwatch(self, number: int) -> None:
        watch = self._watches.pop(number, None)
        if watch is None:
            return
        for subject in _subjects(watch[0]):
            watchers = self._watched.get(subject, set())
            watchers.discard(number)
            if not watchers:
                self._watched.pop(subject, None)


def _subjects(principal: Principal) -> set[str]:
    tenant: UUID | None = principal.tenant_id
    return {text for text in (principal.credential_id, principal.subject, str(tenant) if tenant else "") if text}


def _moment(given: bool, timestamp: Timestamp) -> datetime | None:  # noqa: FBT001 - whether the field is set
    return timestamp.ToDatetime(tzinfo=UTC) if given else None
