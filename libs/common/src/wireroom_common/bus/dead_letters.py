"""Dead letters for whoever operates an installation: where they lie, page by page, and back to where they came from.

A place is the name of a consumer, or `outbox.<service>` for the parked events of an outbox. A replay is a delivery like any other: the
inbox of its consumer makes it have its effect once, however often it is replayed.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from collections.abc import Set as AbstractSet
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, Protocol
from uuid import UUID

import aio_pika
from aio_pika.abc import AbstractChannel, AbstractIncomingMessage
from aio_pika.exceptions import CONNECTION_EXCEPTIONS
from sqlalchemy import text

from wireroom_common.bus import topology
from wireroom_common.bus.amqp_session import copy_of, dead_letter
from wireroom_common.bus.envelope import Envelope
from wireroom_common.bus.parking import Parking
from wireroom_common.bus.port import DeadLetter
from wireroom_common.db import Database
from wireroom_common.errors import ErrorKind, WireroomError

# How far into a queue is looked: what lies behind comes nearer as letters are replayed.
MOST_SEARCHED = 10_000
_CONNECT_SECONDS = 10.0
_NIL = UUID(int=0)


class DeadLetters(Protocol):
    """The dead letters of one place."""

    async def page(self, *, skip: int, limit: int) -> list[DeadLetter]:
        """At most `limit` of them after the first `skip`, oldest first, left where they are."""

    async def replay(self, events: AbstractSet[UUID] | None, *, limit: int) -> list[UUID]:
        """Deliver the letters of `events` again, or of any (None), at most `limit`; those that went."""


class DeadDeliveries:
    """A consumer's, in the database where the `local:` bus keeps them. The consumer's process delivers within seconds."""

    def __init__(self, database: Database, consumer: str) -> None:
        self._parking = Parking(database)
        self._consumer = consumer

    async def page(self, *, skip: int, limit: int) -> list[DeadLetter]:
        return await self._parking.dead(self._consumer, limit, skip=skip)

    async def replay(self, events: AbstractSet[UUID] | None, *, limit: int) -> list[UUID]:
        return await self._parking.revive(self._consumer, events, limit)


class ParkedEvents:
    """Events of a service's outbox that no bus took. Its relay tries them anew, as often as at first."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def page(self, *, skip: int, limit: int) -> list[DeadLetter]:
        async with self._database.system() as connection:
            rows = await connection.execute(
                text(
                    "SELECT id, tenant_id, type, subject, actor, data, attempts,"
                    " CASE WHEN isfinite(created_at) THEN created_at END AS created_at"
                    " FROM outbox WHERE leased_until = 'infinity' ORDER BY id LIMIT :limit OFFSET :skip"
                ),
                {"limit": limit, "skip": skip},
            )
            return [self._letter(row) for row in rows]

    def _letter(self, row: Any) -> DeadLetter:
        envelope = Envelope(
            id=row.id,
            source=f"wireroom/{self._database.service}",
            type=row.type,
            time=row.created_at or datetime.fromtimestamp(0, UTC),
            subject=row.subject,
            data=bytes(row.data),
            tenant_id=row.tenant_id,
            actor=row.actor,
        )
        return DeadLetter(f"outbox.{self._database.service}", envelope, row.attempts, "No bus took it; the log tells why.")

    async def replay(self, events: AbstractSet[UUID] | None, *, limit: int) -> list[UUID]:
        async with self._database.system() as connection:
            rows = await connection.execute(
                text(
                    "UPDATE outbox SET leased_until = NULL, attempts = 0 WHERE id IN (SELECT id FROM outbox"
                    " WHERE leased_until = 'infinity' AND (:all OR id = ANY(:ids)) ORDER BY id LIMIT :limit FOR UPDATE) RETURNING id"
                ),
                {"all": events is None, "ids": list(events or ()), "limit": limit},
            )
            return sorted(row.id for row in rows)


class DeadQueue:
    """A consumer's, in RabbitMQ. Two readers at the same time see a part each."""

    def __init__(self, url: str, consumer: str) -> None:
        self._url = url
        self._consumer = consumer

    async def page(self, *, skip: int, limit: int) -> list[DeadLetter]:
        async with self._messages() as (_channel, messages):
            letters = [dead_letter(self._consumer, message) async for message in messages]
        # What is given back changes its place in the queue: only the order of the events, which is that of their ids, stays.
        return sorted(letters, key=lambda letter: letter.envelope.id)[skip : skip + limit]

    async def replay(self, events: AbstractSet[UUID] | None, *, limit: int) -> list[UUID]:
        """What is no event of ours stays: its consumer would only bury it again."""
        replayed: list[UUID] = []
        async with self._messages() as (channel, messages):
            if limit < 1:
                return replayed
            async for message in messages:
                event_id = dead_letter(self._consumer, message).envelope.id
                if event_id == _NIL or (events is not None and event_id not in events):
                    continue
                # Confirmed before it is taken out: at worst it is delivered twice.
                copy = copy_of(message, attempts=0, error="")
                await channel.default_exchange.publish(copy, routing_key=self._consumer, mandatory=True, timeout=_CONNECT_SECONDS)
                await message.ack()
                replayed.append(event_id)
                if len(replayed) >= limit or (events is not None and events <= set(replayed)):
                    break
        return replayed

    @asynccontextmanager
    async def _messages(self) -> AsyncIterator[tuple[AbstractChannel, AsyncIterator[AbstractIncomingMessage]]]:
        """The queue from its front; what is not acknowledged is given back at the end."""
        try:
            connection = await aio_pika.connect(self._url, timeout=_CONNECT_SECONDS)
            async with connection, connection.channel(publisher_confirms=True, on_return_raises=True) as channel:
                queue = await channel.declare_queue(topology.dead_queue(self._consumer), passive=True)

                async def messages() -> AsyncIterator[AbstractIncomingMessage]:
                    # A letter that dies again meanwhile stands behind those that were there.
                    for _ in range(min(queue.declaration_result.message_count or 0, MOST_SEARCHED)):
                        message = await queue.get(no_ack=False, fail=False)
                        if message is None:
                            return
                        yield message

                yield channel, messages()
        except aio_pika.exceptions.ChannelNotFoundEntity:
            raise WireroomError(
                ErrorKind.NOT_FOUND,
                "queue_not_found",
                f"The broker has no dead letters' queue of '{self._consumer}': has a service run?",
            ) from None
        except (*CONNECTION_EXCEPTIONS, TimeoutError) as error:
            raise WireroomError(ErrorKind.UNAVAILABLE, "bus_unavailable", "The message broker does not answer.") from error


def places(consumers: Mapping[str, Any], databases: Mapping[str, Database], bus_url: str) -> dict[str, DeadLetters]:
    """Every place of an installation whose bus is at `bus_url`; `databases` by service, which the name of a consumer begins with."""
    found: dict[str, DeadLetters] = {}
    for consumer in sorted(consumers):
        if bus_url.startswith("amqp"):
            found[consumer] = DeadQueue(bus_url, consumer)
        elif (database := databases.get(consumer.partition(".")[0])) is not None:
            found[consumer] = DeadDeliveries(database, consumer)
    return found | {f"outbox.{service}": ParkedEvents(database) for service, database in sorted(databases.items())}
