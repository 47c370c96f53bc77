"""The bus port: what the relay and the runtime need, and what services declare."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Protocol
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from wireroom_common.bus.envelope import Envelope
from wireroom_common.db import Database

# A work handler makes its effects on the connection it gets: one transaction of the event's tenant (of the system role when the
# event has none, or when the subscription says so), in which the inbox row already stands. It must not call other services.
WorkHandler = Callable[[AsyncConnection, Envelope], Awaitable[None]]
# A broadcast handler has no database and no inbox: it must be idempotent.
BroadcastHandler = Callable[[Envelope], Awaitable[None]]


@dataclass(frozen=True)
class Subscription:
    """A declared consumer of events.

    Work: `consumer` is the durable queue's name in the catalogue; each event has its effect once per consumer, over all replicas.
    Broadcast: `types` lists event types marked `broadcast`; every replica's handler sees each of them at least once.
    """

    consumer: str
    work: WorkHandler | None = None
    broadcast: BroadcastHandler | None = None
    types: frozenset[str] = frozenset()
    database: Database | None = None
    # True: the handler runs as the system role even when the event has a tenant (for example the event log).
    as_system: bool = False
    # Deliveries before an event is dead-lettered.
    max_attempts: int = 5

    def __post_init__(self) -> None:
        if (self.work is None) == (self.broadcast is None):
            msg = "A subscription has either a work handler or a broadcast handler."
            raise ValueError(msg)
        if self.work is not None and self.database is None:
            msg = "A work subscription needs the database that holds its inbox."
            raise ValueError(msg)


@dataclass(frozen=True)
class DeadLetter:
    """An event that a consumer could not take within its attempts."""

    consumer: str
    envelope: Envelope
    attempts: int
    error: str


class PublishError(Exception):
    """Some envelopes of a batch were refused for a reason of their own; all others of the batch are delivered.

    `failed` maps the id of each refused envelope to the reason; `unfit` are those of them that this version would never take, whatever
    the state of the bus. A bus that cannot publish at all raises something else.
    """

    def __init__(self, failed: Mapping[UUID, str], *, unfit: AbstractSet[UUID] = frozenset()) -> None:
        super().__init__(f"{len(failed)} event(s) were not published, the first because: {next(iter(failed.values()))}")
        self.failed = dict(failed)
        self.unfit = frozenset(unfit)


class Bus(Protocol):
    """Moves envelopes from outboxes to subscriptions. At-least-once; the inbox makes effects exactly-once."""

    async def start(self, subscriptions: Sequence[Subscription]) -> None:
        """Declare the whole topology, then begin to deliver to `subscriptions`. Reconnects for ever afterwards."""

    async def publish(self, envelopes: Sequence[Envelope]) -> None:
        """Return when every envelope is safely in the hands of all its consumers' queues; raise otherwise.

        After `PublishError` only the envelopes it names need publishing again; after any other exception all of them.
        """

    async def dead_letters(self, consumer: str, limit: int = 100) -> list[DeadLetter]:
        """Dead letters of a consumer, oldest first, left where they are."""

    async def ping(self) -> None:
        """Raise unless events can be published now and every work subscription is attached to its queue."""

    async def stop(self) -> None:
        """Stop delivering, let running handlers finish (bounded), close."""
