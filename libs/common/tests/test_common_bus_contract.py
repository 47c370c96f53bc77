"""What every bus promises, over both adapters, on real PostgreSQL and RabbitMQ; then what only the broker's adapter can show."""

from __future__ import annotations

import asyncio
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from uuid import UUID

import aio_pika
import psycopg
import pytest
from opentelemetry import trace
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
from wireroom_common.bus.port import PublishError
from wireroom_common.bus.relay import Relay, RelayMetrics
from wireroom_common.bus.topology import DELIVERY_LIMIT
from wireroom_common.clock import SystemClock
from wireroom_common.db import Database
from wireroom_common.db.schema import messaging_tables, statements_of, tenant_table
from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_common.ids import new_id
from wireroom_common.inbox import purge_inbox
from wireroom_common.outbox import emit
from wireroom_common.principal import ANONYMOUS, current_principal, set_current_principal
from wireroom_common.testing import eventually
from wireroom_common.testing.plugin import MakeDatabase
from wireroom_common.testing.rabbitmq import RabbitMqNode
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
class Rig:
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

    async def expect_once(self, events: Sequence[UUID], *consumers: str, within: float = 20.0) -> None:
        wanted = Counter(events)
        for consumer in consumers or (self.one, self.two):

            async def all_there(name: str = consumer) -> bool:
                return set(await self.effects(name)) >= set(events)

            await eventually(all_there, within=within, what=f"all effects of {consumer}")
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


MakeRig = Callable[..., Awaitable[Rig]]


@pytest.fixture
async def make_rig(
    make_database: MakeDatabase, fresh_database_url: str, request: pytest.FixtureRequest
) -> AsyncIterator[MakeRig]:
    rigs: list[Rig] = []

    async def make(kind: str, url: str = "") -> Rig:
        effects = [
            f"CREATE TABLE {SERVICE}.effects (tenant_id uuid NOT NULL, consumer text NOT NULL, event_id uuid NOT NULL)",
            *tenant_table(SERVICE, "effects", system="SELECT"),
        ]
        database = await make_database(SERVICE, statements_of(messaging_tables(SERVICE), effects))
        amqp_url = url or (request.getfixturevalue("rabbitmq_url") if kind == "amqp" else "")
        rigs.append(Rig(kind, database, fresh_database_url, amqp_url))
        return rigs[-1]

    yield make
    for rig in rigs:
        await rig.close()


@pytest.fixture(params=["local", "amqp"])
async def rig(make_rig: MakeRig, request: pytest.FixtureRequest) -> Rig:
    return await make_rig(request.param)


@pytest.fixture
async def amqp_rig(make_rig: MakeRig) -> Rig:
    return await make_rig("amqp")


async def test_event_committed_has_one_effect_per_consumer(rig: Rig) -> None:
    tenants: set[tuple[UUID | None, str]] = set()

    async def note_tenant(connection: AsyncConnection, envelope: Envelope) -> None:
        tenants.add((envelope.tenant_id, await connection.scalar(text("SELECT current_setting('wireroom.tenant')")) or ""))

    bus = await rig.bus(rig.work(rig.one, note_tenant), rig.work(rig.two))
    await rig.relay(bus)
    events = await rig.emit(300) + await rig.emit(20, OTHER_TENANT)
    await rig.expect_once(events)
    assert tenants == {(TENANT, str(TENANT)), (OTHER_TENANT, str(OTHER_TENANT))}
    assert await eventually(lambda: rig.sample("wireroom_outbox_published_total", service=SERVICE) == 320)
    assert await rig.outbox() == 0


async def test_notify_wakes_relay_without_waiting_for_the_poll(rig: Rig) -> None:
    bus = await rig.bus(rig.work(rig.one), rig.work(rig.two))
    relay = Relay(rig.database, bus, rig.relay_metrics, poll_interval=3600.0)
    rig.running.insert(0, relay)
    await relay.start()
    for _ in range(3):
        await rig.expect_once(sorted([*(await rig.effects(rig.one)), *await rig.emit(1)]), within=5.0)


async def test_duplicate_publication_has_one_effect(rig: Rig) -> None:
    bus = await rig.bus(rig.work(rig.one), rig.work(rig.two))
    envelope = rig.envelope()
    await asyncio.gather(*(bus.publish([envelope, envelope]) for _ in range(5)))
    await eventually(lambda: rig.delivered(rig.one, "duplicate") == 9)
    await rig.expect_once([envelope.id])


async def test_handler_that_recovers_has_one_effect(rig: Rig) -> None:
    attempts: Counter[UUID] = Counter()

    async def fail_thrice(connection: AsyncConnection, envelope: Envelope) -> None:
        attempts[envelope.id] += 1
        if attempts[envelope.id] <= 3:
            # Work done before the failure must be rolled back, or the effect is counted twice.
            await record_effect(connection, envelope, rig.one)
            raise RuntimeError("not yet")

    bus = await rig.bus(rig.work(rig.one, fail_thrice, max_attempts=4), rig.work(rig.two))
    await rig.relay(bus)
    events = await rig.emit(5)
    await rig.expect_once(events)
    assert attempts == dict.fromkeys(events, 4)
    assert await bus.dead_letters(rig.one) == []


async def test_poison_is_dead_lettered_while_others_flow(rig: Rig) -> None:
    poison: set[UUID] = set()
    attempts: Counter[UUID] = Counter()

    async def choke(connection: AsyncConnection, envelope: Envelope) -> None:
        if envelope.id in poison:
            attempts[envelope.id] += 1
            await connection.execute(text("SELECT CAST(:secret AS integer)"), {"secret": "hunter2"})

    bus = await rig.bus(rig.work(rig.one, choke, max_attempts=3), rig.work(rig.two))
    bad = [rig.envelope() for _ in range(3)]
    poison.update(envelope.id for envelope in bad)
    good = [rig.envelope() for _ in range(50)]
    await bus.publish([*bad, *good])
    await rig.expect_once([e.id for e in good], rig.one)
    await rig.expect_once([e.id for e in (*bad, *good)], rig.two)

    async def buried() -> bool:
        return len(await bus.dead_letters(rig.one)) == 3

    await eventually(buried)
    for _ in range(2):  # Reading leaves them where they are.
        letters = await bus.dead_letters(rig.one)
        assert {letter.envelope.id for letter in letters} == poison
    assert attempts == dict.fromkeys(poison, 3)
    assert letters[0].envelope in bad
    assert {letter.attempts for letter in letters} == {3}
    assert "InvalidTextRepresentation" in letters[0].error
    assert "SELECT" not in letters[0].error
    assert len(await bus.dead_letters(rig.one, limit=2)) == 2
    with pytest.raises(WireroomError):
        await bus.dead_letters("nobody.here")


async def test_event_of_rolled_back_transaction_never_arrives(rig: Rig) -> None:
    bus = await rig.bus(rig.work(rig.one), rig.work(rig.two))
    await rig.relay(bus)

    async def change_then_fail() -> None:
        async with rig.database.tenant(TENANT) as connection:
            await emit(connection, events_pb2.RagDocumentDeleted(document_id="no"), tenant_id=TENANT, subject="no")
            raise RuntimeError("changed my mind")

    with pytest.raises(RuntimeError, match="changed my mind"):
        await change_then_fail()
    await rig.expect_once(await rig.emit(1))


async def test_relay_that_dies_between_publish_and_delete_has_one_effect(rig: Rig) -> None:
    bus = await rig.bus(rig.work(rig.one), rig.work(rig.two))
    rig.admin(f"REVOKE DELETE ON {SERVICE}.outbox FROM {SERVICE}_system")
    await rig.relay(bus, lease=0.3)
    events = await rig.emit(10)
    await eventually(lambda: rig.delivered(rig.one, "duplicate") >= 10, what="second publication")
    assert await rig.outbox() == 10
    rig.admin(f"GRANT DELETE ON {SERVICE}.outbox TO {SERVICE}_system")

    async def drained() -> bool:
        return await rig.outbox() == 0

    await eventually(drained)
    await rig.expect_once(events)
    assert rig.sample("wireroom_outbox_failures_total", service=SERVICE) >= 2


async def test_two_relays_on_one_outbox_have_one_effect_each(rig: Rig) -> None:
    bus = await rig.bus(rig.work(rig.one), rig.work(rig.two))
    events = [event for _ in range(3) for event in await rig.emit(250)]
    await rig.relay(bus)
    await rig.relay(bus)
    await rig.expect_once(events)
    assert rig.delivered(rig.one, "duplicate") == 0


async def test_broadcast_reaches_every_subscriber(rig: Rig) -> None:
    seen: list[tuple[int, UUID]] = []

    def listener(number: int) -> Subscription:
        async def show(envelope: Envelope) -> None:
            if (number, envelope.id) not in seen:
                seen.append((number, envelope.id))
                raise RuntimeError("shown again after a failure")
            seen.append((number, envelope.id))

        return Subscription(f"listener.{number}", broadcast=show, types=frozenset({REVOKED}))

    work = (rig.work(rig.one), rig.work(rig.two))
    if rig.kind == "local":  # One process is the only replica.
        bus = await rig.bus(*work, listener(1), listener(2))
    else:
        bus = await rig.bus(*work, listener(1))
        await rig.bus(*work, listener(2))
    envelope, other = rig.envelope(REVOKED), rig.envelope()
    await bus.publish([envelope, other])
    await eventually(lambda: Counter(seen) == {(1, envelope.id): 2, (2, envelope.id): 2})
    await rig.expect_once([other.id], rig.one)
    await rig.expect_once([envelope.id, other.id], rig.two)


async def test_refused_event_holds_up_nobody(rig: Rig) -> None:
    bus = await rig.bus(rig.work(rig.one), rig.work(rig.two))
    unknown, large, good = rig.envelope("no.such.event"), rig.envelope(data=b"x" * 1_048_577), rig.envelope()
    with pytest.raises(PublishError) as caught:
        await bus.publish([unknown, large, good])
    assert set(caught.value.failed) == {unknown.id, large.id}
    async with rig.database.system() as connection:
        await connection.execute(
            text(
                "INSERT INTO outbox (id, tenant_id, type, subject, partition_key, actor, traceparent, causation_id, data)"
                " VALUES (:id, NULL, 'no.such.event', '', '', '', '', '', '')"
            ),
            {"id": UUID(int=0)},
        )
    await rig.relay(bus)
    events = await rig.emit(3)
    await rig.expect_once([good.id, *events])
    assert await eventually(lambda: rig.sample("wireroom_outbox_failures_total", service=SERVICE) >= 2, what="tried again")
    assert await rig.outbox() == 1


async def test_handler_sees_trace_of_producer_but_no_principal(rig: Rig) -> None:
    seen: list[tuple[int, int]] = []

    async def look(_connection: AsyncConnection, _envelope: Envelope) -> None:
        with pytest.raises(WireroomError) as caught:
            current_principal()
        assert caught.value.kind is ErrorKind.UNAUTHENTICATED
        context = trace.get_current_span().get_span_context()
        seen.append((context.trace_id, context.span_id))

    bus = await rig.bus(rig.work(rig.one, look), rig.work(rig.two))
    set_current_principal(ANONYMOUS)
    tracer = rig.tracing.get_tracer("test")
    with tracer.start_as_current_span("request") as span:
        producer = span.get_span_context()
        await rig.emit(1)
    with tracer.start_as_current_span("unrelated"):
        await rig.relay(bus)
        await eventually(lambda: len(seen) == 1)
    assert seen[0][0] == producer.trace_id
    assert seen[0][1] != producer.span_id


async def test_handlers_run_in_parallel_but_bounded(rig: Rig) -> None:
    running, most = 0, 0
    release = asyncio.Event()

    async def wait(_connection: AsyncConnection, _envelope: Envelope) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await release.wait()
        running -= 1

    bus = await rig.bus(rig.work(rig.one, wait), rig.work(rig.two))
    envelopes = [rig.envelope() for _ in range(30)]
    publishing = asyncio.create_task(bus.publish(envelopes))
    await rig.expect_once([e.id for e in envelopes], rig.two)  # The slow consumer does not hold up the other one.
    await eventually(lambda: running == 8)
    release.set()
    await publishing
    await rig.expect_once([e.id for e in envelopes])
    assert most == 8


async def test_stop_lets_running_handler_finish(rig: Rig) -> None:
    started, release = asyncio.Event(), asyncio.Event()

    async def wait(_connection: AsyncConnection, _envelope: Envelope) -> None:
        started.set()
        await release.wait()

    bus = await rig.bus(rig.work(rig.one, wait), rig.work(rig.two))
    relay = await rig.relay(bus)
    events = await rig.emit(1)
    await started.wait()
    stopping = asyncio.gather(relay.stop(), bus.stop())
    asyncio.get_running_loop().call_later(0.1, release.set)
    await stopping
    await rig.expect_once(events, rig.one, within=0.1)
    with pytest.raises(WireroomError):
        await bus.ping()
    with pytest.raises(WireroomError):
        await bus.publish([rig.envelope()])


async def test_outage_of_the_consumers_database_uses_up_no_attempt(rig: Rig) -> None:
    bus = await rig.bus(rig.work(rig.one, max_attempts=2), rig.work(rig.two, max_attempts=2))
    roles = (f"{SERVICE}_app", f"{SERVICE}_system")
    refusals: list[ErrorKind] = []
    cut = [f"ALTER ROLE {role} NOLOGIN" for role in roles]
    try:
        rig.admin(*cut, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename LIKE 'bustest_%'")
        envelope = rig.envelope()

        async def publish() -> bool:
            try:
                await bus.publish([envelope])
            except WireroomError as error:
                refusals.append(error.kind)
                return False
            return True

        for _ in range(3):
            await publish()
        # Without a broker nobody holds the event meanwhile: the outbox keeps it.
        assert refusals == ([ErrorKind.UNAVAILABLE] * 3 if rig.kind == "local" else [])
        await eventually(lambda: rig.delivered(rig.one, "deferred") >= 3)
    finally:
        rig.admin(*(f"ALTER ROLE {role} LOGIN" for role in roles))
    await eventually(publish)
    await rig.expect_once([envelope.id])
    assert await bus.dead_letters(rig.one) == []


async def test_subscriptions_that_do_not_fit_the_catalogue_are_refused(rig: Rig) -> None:
    async def show(_envelope: Envelope) -> None:
        raise AssertionError("never started")

    one, two = rig.work(rig.one), rig.work(rig.two)
    cases = {
        "names the consumer": [one, two, rig.work("not.in.catalogue")],
        "subscribed twice": [one, one, two],
        "not a broadcast event": [one, two, Subscription("listener", broadcast=show, types=frozenset({DELETED}))],
    }
    if rig.kind == "local":  # With a broker the queue keeps the events for a process that is not there yet.
        cases["would be lost"] = [one]
    for message, subscriptions in cases.items():
        with pytest.raises(ValueError, match=message):
            await rig.bus(*subscriptions)


async def test_purge_removes_only_old_inbox_rows_and_is_bounded(rig: Rig) -> None:
    bus = await rig.bus(rig.work(rig.one), rig.work(rig.two))
    envelopes = [rig.envelope() for _ in range(4)]
    await bus.publish(envelopes)
    await rig.expect_once([e.id for e in envelopes])
    rig.admin("UPDATE bustest.inbox SET seen_at = now() - interval '8 days' WHERE consumer LIKE 'one.%'")
    assert await purge_inbox(rig.database, timedelta(days=7), limit=3) == 3
    assert await purge_inbox(rig.database, timedelta(days=7), limit=3) == 1
    assert await purge_inbox(rig.database, timedelta(days=7), limit=3) == 0


async def test_redelivery_survives_a_restart_of_the_process(make_rig: MakeRig) -> None:
    rig = await make_rig("local")
    rig.retry = (0.5,)

    async def fail(_connection: AsyncConnection, _envelope: Envelope) -> None:
        raise RuntimeError("not in this process")

    first = await rig.bus(rig.work(rig.one, fail), rig.work(rig.two))
    envelope = rig.envelope()
    await first.publish([envelope])
    await first.stop()
    await rig.bus(rig.work(rig.one), rig.work(rig.two))
    await rig.expect_once([envelope.id])


async def test_broker_restarts_lose_nothing(make_rig: MakeRig, rabbitmq_node: RabbitMqNode) -> None:
    # The private node: a broker that the environment names is not ours to stop.
    rig = await make_rig("amqp", rabbitmq_node.url)
    shown: set[UUID] = set()

    async def show(envelope: Envelope) -> None:
        shown.add(envelope.id)

    listener = Subscription("listener", broadcast=show, types=frozenset({REVOKED}))
    bus = await rig.bus(rig.work(rig.one), rig.work(rig.two), listener)
    await rig.relay(bus)
    events: list[UUID] = []
    done = asyncio.Event()

    async def produce() -> None:
        while not done.is_set():
            events.extend(await rig.emit(5))
            await asyncio.sleep(0.02)

    producing = asyncio.create_task(produce())
    # The clean stop comes first: a queue declared in the seconds before a `kill -9` may be unusable afterwards (RabbitMQ's own).
    for end in (rabbitmq_node.stop, rabbitmq_node.kill):
        await eventually(lambda: len(events) > 50)
        await asyncio.to_thread(end)
        await eventually(partial(refuses, bus))
        waiting = len(events)
        await eventually(lambda before=waiting: len(events) > before + 20)  # Producers do not notice.
        await asyncio.to_thread(rabbitmq_node.start)
        await eventually(partial(answers, bus), within=20)
    done.set()
    await producing
    await rig.expect_once(events, within=40)
    revoked = rig.envelope(REVOKED)
    await bus.publish([revoked])
    await eventually(lambda: revoked.id in shown, what="the broadcast consumer is back")


async def test_event_that_ends_its_consumers_is_dead_lettered_by_the_broker(amqp_rig: Rig) -> None:
    rig = amqp_rig
    bus = await rig.bus()
    envelope = rig.envelope()
    await bus.publish([envelope])
    for _ in range(DELIVERY_LIMIT + 1):
        connection = await aio_pika.connect(rig.amqp_url)
        async with connection, connection.channel() as channel:
            queue = await channel.get_queue(rig.one, ensure=False)
            assert await eventually(partial(queue.get, fail=False))  # Ends without an acknowledgement.

    async def buried() -> bool:
        return len(await bus.dead_letters(rig.one)) == 1

    await eventually(buried)
    (letter,) = await bus.dead_letters(rig.one)
    assert letter.envelope == envelope
    assert letter.attempts == DELIVERY_LIMIT
    assert "process" in letter.error
    await rig.bus(rig.work(rig.one), rig.work(rig.two))
    await rig.expect_once([envelope.id], rig.two)


async def test_bus_started_before_the_broker_connects_when_it_comes(make_rig: MakeRig, rabbitmq_url: str) -> None:
    rig = await make_rig("amqp")
    connection: list[asyncio.StreamWriter] = []
    target = aio_pika.connection.make_url(rabbitmq_url)

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, here = await asyncio.open_connection(target.host, target.port)
        connection.extend((writer, here))

        async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            while data := await source.read(65536):
                sink.write(data)
                await sink.drain()
            sink.close()

        await asyncio.gather(pump(reader, here), pump(there, writer), return_exceptions=True)

    probe = await asyncio.start_server(forward, "127.0.0.1", 0)
    port = probe.sockets[0].getsockname()[1]
    probe.close()
    await probe.wait_closed()
    deliverer = Deliverer(rig.catalogue, rig.bus_metrics, SystemClock())
    limits = AmqpLimits(retry_delays=rig.retry, connect_timeout=0.2)
    bus = AmqpBus(str(target.with_port(port)), rig.catalogue, deliverer, limits=limits)
    rig.running.append(bus)
    await bus.start([rig.work(rig.one), rig.work(rig.two)])
    with pytest.raises(WireroomError):
        await bus.publish([rig.envelope()])
    server = await asyncio.start_server(forward, "127.0.0.1", port)
    envelope = rig.envelope()

    async def publish() -> bool:
        try:
            await bus.publish([envelope])
        except WireroomError:
            return False
        return True

    await eventually(publish)
    await rig.expect_once([envelope.id])
    await bus.stop()
    server.close()
    for writer in connection:
        writer.close()


async def test_malformed_message_goes_to_the_dead_letters_at_once(amqp_rig: Rig) -> None:
    rig = amqp_rig
    bus = await rig.bus(rig.work(rig.one), rig.work(rig.two))
    connection = await aio_pika.connect(rig.amqp_url)
    async with connection, connection.channel() as channel:
        for headers in (
            {},
            {"cloudEvents:specversion": "1.0", "cloudEvents:id": "x", "cloudEvents:source": "s", "cloudEvents:type": DELETED},
        ):
            await channel.default_exchange.publish(aio_pika.Message(b"\xff", headers=dict(headers)), rig.one)
    envelope = rig.envelope()
    await bus.publish([envelope])
    await rig.expect_once([envelope.id])

    async def buried() -> list[str]:
        letters = await bus.dead_letters(rig.one)
        return [letter.error for letter in letters] if len(letters) == 2 else []

    errors = await eventually(buried)
    assert (
        errors == ["The attribute 'specversion' is missing or not 1.0.", "The attribute 'time' is missing."]
        or "UUID" in errors[1]
    )


async def test_deleted_queue_is_declared_again(amqp_rig: Rig) -> None:
    rig = amqp_rig
    bus = await rig.bus(rig.work(rig.one), rig.work(rig.two))
    await rig.relay(bus)
    connection = await aio_pika.connect(rig.amqp_url)
    async with connection, connection.channel() as channel:
        await channel.queue_delete(rig.one)

        async def back() -> bool:
            try:
                async with connection.channel() as probe:
                    await probe.declare_queue(rig.one, passive=True)
            except aio_pika.exceptions.ChannelNotFoundEntity:
                return False
            return True

        await eventually(back)
    await eventually(partial(answers, bus))
    await rig.expect_once(await rig.emit(5))


async def test_replica_that_vanishes_in_the_middle_leaves_its_events_to_the_others(amqp_rig: Rig) -> None:
    rig = amqp_rig
    hold = asyncio.Event()
    held: set[UUID] = set()

    async def never(_connection: AsyncConnection, envelope: Envelope) -> None:
        held.add(envelope.id)
        await hold.wait()

    stuck = AmqpBus(
        rig.amqp_url,
        rig.catalogue,
        Deliverer(rig.catalogue, rig.bus_metrics, SystemClock()),
        limits=AmqpLimits(retry_delays=rig.retry, stop_timeout=0.1),
    )
    await stuck.start([rig.work(rig.one, never)])
    envelopes = [rig.envelope() for _ in range(40)]
    await stuck.publish(envelopes)
    await eventually(lambda: len(held) == 8)
    await stuck.stop()
    await rig.bus(rig.work(rig.one), rig.work(rig.two))
    await rig.expect_once([e.id for e in envelopes])


async def test_bus_is_not_ready_before_every_work_queue_delivers(amqp_rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    rig = amqp_rig
    opened, broken, refused = aio_pika.Connection.channel, True, 0

    def channel(self: aio_pika.Connection, *arguments: object, **named: object) -> aio_pika.abc.AbstractChannel:
        nonlocal refused
        if broken and not named:  # A consumer's channel; connection, topology and publisher are fine.
            refused += 1
            raise LookupError("no channel number is free")
        return opened(self, *arguments, **named)  # type: ignore[arg-type]  # handed on as it came

    monkeypatch.setattr(aio_pika.Connection, "channel", channel)
    publishing = await rig.bus()
    bus = AmqpBus(
        rig.amqp_url,
        rig.catalogue,
        Deliverer(rig.catalogue, rig.bus_metrics, SystemClock()),
        limits=AmqpLimits(retry_delays=rig.retry, attach_timeout=0.2),
    )
    rig.running.append(bus)
    await bus.start([rig.work(rig.one), rig.work(rig.two)])
    envelope = rig.envelope()
    await publishing.publish([envelope])
    await publishing.ping()  # Has nothing to attach.
    await eventually(lambda: refused >= 4, what="both consumers were tried twice")
    with pytest.raises(WireroomError) as caught:
        await bus.ping()
    assert (caught.value.kind, caught.value.code) == (ErrorKind.UNAVAILABLE, "bus_not_attached")
    assert rig.one in caught.value.detail
    assert rig.two in caught.value.detail
    broken = False
    await eventually(partial(answers, bus))
    await rig.expect_once([envelope.id])
