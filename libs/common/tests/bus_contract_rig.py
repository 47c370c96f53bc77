"""A database with outbox and inbox and buses over it, for the tests of what buses promise."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from uuid import UUID

import aio_pika
import psycopg
from opentelemetry.sdk.trace import TracerProvider
from prometheus_client import CollectorRegistry
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from wireroom_common.bus import Bus, Catalogue, Envelope, Subscription
from wireroom_common.bus.amqp import AmqpBus
from wireroom_common.bus.amqp_session import AmqpLimits
from wireroom_common.bus.catalogue import EventSpec
from wireroom_common.bus.delivery import BusMetrics, Deliverer
from wireroom_common.bus.local import LocalBus
from wireroom_common.bus.relay import Relay, RelayMetrics
from wireroom_common.clock import SystemClock
from wireroom_common.db import Database
from wireroom_common.errors import WireroomError
from wireroom_common.ids import new_id
from wireroom_common.outbox import emit
from wireroom_common.testing import eventually
from wireroom_protos.events.v1 import events_pb2

SERVICE = "bustest"
DELETED, REVOKED = "rag.document.deleted", "auth.session.revoked"
TENANT = UUID(int=1)
OTHER_TENANT = UUID(int=2)
Handler = Callable[[AsyncConnection, Envelope], Awaitable[None]]


async def record_effect(connection: AsyncConnection, envelope: Envelope, consumer: str) -> None:
    await connection.execute(
        text("INSERT INTO effects (tenant_id, consumer, event_id) VALUES (:tenant, :consumer, :event)"),
        {"tenant": envelope.tenant_id, "consumer": consumer, "event": envelope.id},
    )


async def answers(bus: Bus) -> bool:
    try:
        await bus.ping()
    except WireroomError:
        return False
    return True


async def refuses(bus: Bus) -> bool:
    return not await answers(bus)


@dataclass
class BusRig:
    """A database with outbox, inbox and an `effects` table, and buses over it."""

    kind: str
    database: Database
    admin_url: str
    amqp_url: str
    retry: tuple[float, ...] = (0.02, 0.05)
    suffix: str = field(default_factory=lambda: uuid.uuid4().hex[:8])
    registry: CollectorRegistry = field(default_factory=CollectorRegistry)
    tracing: TracerProvider = field(default_factory=TracerProvider)
    running: list[Bus | Relay] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.one, self.two = f"one.{self.suffix}", f"two.{self.suffix}"
        both = frozenset({self.one, self.two})
        self.catalogue = Catalogue(
            {
                DELETED: EventSpec(DELETED, events_pb2.RagDocumentDeleted, both, broadcast=False),
                REVOKED: EventSpec(REVOKED, events_pb2.AuthSessionRevoked, frozenset({self.two}), broadcast=True),
            }
        )
        self.relay_metrics = RelayMetrics(self.registry)
        self.bus_metrics = BusMetrics(self.registry)

    def work(self, consumer: str, handler: Handler | None = None, *, max_attempts: int = 5) -> Subscription:
        async def effect(connection: AsyncConnection, envelope: Envelope) -> None:
            if handler is not None:
                await handler(connection, envelope)
            await record_effect(connection, envelope, consumer)

        return Subscription(consumer, work=effect, database=self.database, max_attempts=max_attempts)

    async def bus(self, *subscriptions: Subscription, url: str | None = None) -> Bus:
        deliverer = Deliverer(self.catalogue, self.bus_metrics, SystemClock(), tracer_provider=self.tracing)
        bus: Bus
        if self.kind == "local":
            bus = LocalBus(self.catalogue, deliverer, first_retry=self.retry[0])
        else:
            bus = AmqpBus(url or self.amqp_url, self.catalogue, deliverer, limits=AmqpLimits(retry_delays=self.retry))
        self.running.append(bus)
        await bus.start(subscriptions)
        return bus

    async def relay(self, bus: Bus, *, lease: float = 15.0) -> Relay:
        relay = Relay(self.database, bus, self.relay_metrics, lease=lease)
        # Relays stop before their bus.
        self.running.insert(0, relay)
        await relay.start()
        return relay

    async def emit(self, count: int, tenant: UUID = TENANT) -> list[UUID]:
        async with self.database.tenant(tenant) as connection:
            return [
                await emit(connection, events_pb2.RagDocumentDeleted(document_id=str(n)), tenant_id=tenant, subject=str(n))
                for n in range(count)
            ]

    def envelope(self, event_type: str = DELETED, **changes: object) -> Envelope:
        data = events_pb2.RagDocumentDeleted(document_id="x").SerializeToString()
        base = Envelope(new_id(), f"wireroom/{SERVICE}", event_type, datetime.now(UTC), "x", data, tenant_id=TENANT)
        return replace(base, **changes)  # type: ignore[arg-type]  # field names are checked by replace itself

    async def effects(self, consumer: str) -> Counter[UUID]:
        async with self.database.system() as connection:
            rows = await connection.execute(text("SELECT event_id FROM effects WHERE consumer = :c"), {"c": consumer})
            return Counter(row.event_id for row in rows)

    async def outbox(self) -> int:
        async with self.database.system() as connection:
            return int(await connection.scalar(text("SELECT count(*) FROM outbox")) or 0)

    async def expect_once(self, events: Sequence[UUID], *consumers: str, within: float = 60.0) -> None:
        wanted = Counter(events)
        for consumer in consumers or (self.one, self.two):

            async def all_there(name: str = consumer) -> bool:
                return set(await self.effects(name)) >= set(events)

            await eventually(all_there, within=within, every=0.1, what=f"all effects of {consumer}")
            assert await self.effects(consumer) == wanted

    def sample(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(name, labels) or 0.0

    def delivered(self, consumer: str, outcome: str) -> float:
        return self.sample("wireroom_events_delivered_total", consumer=consumer, outcome=outcome)

    def admin(self, *statements: str) -> None:
        with psycopg.connect(self.admin_url, autocommit=True) as connection:
            for statement in statements:
                connection.execute(statement.encode())

    async def close(self) -> None:
        for part in self.running:
            await part.stop()
        if self.kind == "amqp":
            connection = await aio_pika.connect(self.amqp_url)
            async with connection, connection.channel() as channel:
                for consumer in (self.one, self.two):
                    for queue in (consumer, f"{consumer}.dead", *(f"{consumer}.retry.{round(d * 1000)}" for d in self.retry)):
                        await channel.queue_delete(queue)


MakeBusRig = Callable[..., Awaitable[BusRig]]
