"""What buses promise when a process or a broker goes away, and what only the broker's adapter can show."""

from __future__ import annotations

import asyncio
from functools import partial
from uuid import UUID

import aio_pika
import pytest
from bus_contract_rig import DELETED, REVOKED, BusRig, MakeBusRig, answers, refuses
from sqlalchemy.ext.asyncio import AsyncConnection

from wireroom_common.bus import Envelope, Subscription
from wireroom_common.bus.amqp import AmqpBus
from wireroom_common.bus.amqp_session import AmqpLimits
from wireroom_common.bus.delivery import Deliverer
from wireroom_common.bus.topology import DELIVERY_LIMIT
from wireroom_common.clock import SystemClock
from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_common.testing import eventually
from wireroom_common.testing.rabbitmq import RabbitMqNode


async def test_redelivery_survives_a_restart_of_the_process(make_bus_rig: MakeBusRig) -> None:
    bus_rig = await make_bus_rig("local")
    bus_rig.retry = (0.5,)

    async def fail(_connection: AsyncConnection, _envelope: Envelope) -> None:
        raise RuntimeError("not in this process")

    first = await bus_rig.bus(bus_rig.work(bus_rig.one, fail), bus_rig.work(bus_rig.two))
    envelope = bus_rig.envelope()
    await first.publish([envelope])
    await first.stop()
    await bus_rig.bus(bus_rig.work(bus_rig.one), bus_rig.work(bus_rig.two))
    await bus_rig.expect_once([envelope.id])


async def test_broker_restarts_lose_nothing(make_bus_rig: MakeBusRig, rabbitmq_node: RabbitMqNode) -> None:
    # The private node: a broker that the environment names is not ours to stop.
    bus_rig = await make_bus_rig("amqp", rabbitmq_node.url)
    shown: set[UUID] = set()

    async def show(envelope: Envelope) -> None:
        shown.add(envelope.id)

    listener = Subscription("listener", broadcast=show, types=frozenset({REVOKED}))
    bus = await bus_rig.bus(bus_rig.work(bus_rig.one), bus_rig.work(bus_rig.two), listener)
    await bus_rig.relay(bus)
    events: list[UUID] = []
    done = asyncio.Event()

    async def produce() -> None:
        while not done.is_set():
            events.extend(await bus_rig.emit(5))
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
    await bus_rig.expect_once(events, within=40)
    revoked = bus_rig.envelope(REVOKED)
    await bus.publish([revoked])
    await eventually(lambda: revoked.id in shown, what="the broadcast consumer is back")


async def test_event_that_ends_its_consumers_is_dead_lettered_by_the_broker(amqp_rig: BusRig) -> None:
    bus_rig = amqp_rig
    bus = await bus_rig.bus()
    envelope = bus_rig.envelope()
    await bus.publish([envelope])
    for _ in range(DELIVERY_LIMIT + 1):
        connection = await aio_pika.connect(bus_rig.amqp_url)
        async with connection, connection.channel() as channel:
            queue = await channel.get_queue(bus_rig.one, ensure=False)
            assert await eventually(partial(queue.get, fail=False))  # Ends without an acknowledgement.

    async def buried() -> bool:
        return len(await bus.dead_letters(bus_rig.one)) == 1

    await eventually(buried)
    (letter,) = await bus.dead_letters(bus_rig.one)
    assert letter.envelope == envelope
    assert letter.attempts == DELIVERY_LIMIT
    assert "process" in letter.error
    await bus_rig.bus(bus_rig.work(bus_rig.one), bus_rig.work(bus_rig.two))
    await bus_rig.expect_once([envelope.id], bus_rig.two)


async def test_bus_started_before_the_broker_connects_when_it_comes(make_bus_rig: MakeBusRig, rabbitmq_url: str) -> None:
    bus_rig = await make_bus_rig("amqp")
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
    deliverer = Deliverer(bus_rig.catalogue, bus_rig.bus_metrics, SystemClock())
    limits = AmqpLimits(retry_delays=bus_rig.retry, connect_timeout=0.2)
    bus = AmqpBus(str(target.with_port(port)), bus_rig.catalogue, deliverer, limits=limits)
    bus_rig.running.append(bus)
    await bus.start([bus_rig.work(bus_rig.one), bus_rig.work(bus_rig.two)])
    with pytest.raises(WireroomError):
        await bus.publish([bus_rig.envelope()])
    server = await asyncio.start_server(forward, "127.0.0.1", port)
    envelope = bus_rig.envelope()

    async def publish() -> bool:
        try:
            await bus.publish([envelope])
        except WireroomError:
            return False
        return True

    await eventually(publish)
    await bus_rig.expect_once([envelope.id])
    await bus.stop()
    server.close()
    for writer in connection:
        writer.close()


async def test_malformed_message_goes_to_the_dead_letters_at_once(amqp_rig: BusRig) -> None:
    bus_rig = amqp_rig
    bus = await bus_rig.bus(bus_rig.work(bus_rig.one), bus_rig.work(bus_rig.two))
    connection = await aio_pika.connect(bus_rig.amqp_url)
    async with connection, connection.channel() as channel:
        for headers in (
            {},
            {"cloudEvents:specversion": "1.0", "cloudEvents:id": "x", "cloudEvents:source": "s", "cloudEvents:type": DELETED},
        ):
            await channel.default_exchange.publish(aio_pika.Message(b"\xff", headers=dict(headers)), bus_rig.one)
    envelope = bus_rig.envelope()
    await bus.publish([envelope])
    await bus_rig.expect_once([envelope.id])

    async def buried() -> list[str]:
        letters = await bus.dead_letters(bus_rig.one)
        return [letter.error for letter in letters] if len(letters) == 2 else []

    errors = await eventually(buried)
    assert (
        errors == ["The attribute 'specversion' is missing or not 1.0.", "The attribute 'time' is missing."]
        or "UUID" in errors[1]
    )


async def test_deleted_queue_is_declared_again(amqp_rig: BusRig) -> None:
    bus_rig = amqp_rig
    bus = await bus_rig.bus(bus_rig.work(bus_rig.one), bus_rig.work(bus_rig.two))
    await bus_rig.relay(bus)
    connection = await aio_pika.connect(bus_rig.amqp_url)
    async with connection, connection.channel() as channel:
        await channel.queue_delete(bus_rig.one)

        async def back() -> bool:
            try:
                async with connection.channel() as probe:
                    await probe.declare_queue(bus_rig.one, passive=True)
            except aio_pika.exceptions.ChannelNotFoundEntity:
                return False
            return True

        await eventually(back)
    await eventually(partial(answers, bus))
    await bus_rig.expect_once(await bus_rig.emit(5))


async def test_replica_that_vanishes_in_the_middle_leaves_its_events_to_the_others(amqp_rig: BusRig) -> None:
    bus_rig = amqp_rig
    hold = asyncio.Event()
    held: set[UUID] = set()

    async def never(_connection: AsyncConnection, envelope: Envelope) -> None:
        held.add(envelope.id)
        await hold.wait()

    stuck = AmqpBus(
        bus_rig.amqp_url,
        bus_rig.catalogue,
        Deliverer(bus_rig.catalogue, bus_rig.bus_metrics, SystemClock()),
        limits=AmqpLimits(retry_delays=bus_rig.retry, stop_timeout=0.1),
    )
    await stuck.start([bus_rig.work(bus_rig.one, never)])
    envelopes = [bus_rig.envelope() for _ in range(40)]
    await stuck.publish(envelopes)
    await eventually(lambda: len(held) == 8)
    await stuck.stop()
    await bus_rig.bus(bus_rig.work(bus_rig.one), bus_rig.work(bus_rig.two))
    await bus_rig.expect_once([e.id for e in envelopes])


async def test_bus_is_not_ready_before_every_work_queue_delivers(amqp_rig: BusRig, monkeypatch: pytest.MonkeyPatch) -> None:
    bus_rig = amqp_rig
    opened, broken, refused = aio_pika.Connection.channel, True, 0

    def channel(self: aio_pika.Connection, *arguments: object, **named: object) -> aio_pika.abc.AbstractChannel:
        nonlocal refused
        if broken and not named:  # A consumer's channel; connection, topology and publisher are fine.
            refused += 1
            raise LookupError("no channel number is free")
        return opened(self, *arguments, **named)  # type: ignore[arg-type]  # handed on as it came

    monkeypatch.setattr(aio_pika.Connection, "channel", channel)
    publishing = await bus_rig.bus()
    bus = AmqpBus(
        bus_rig.amqp_url,
        bus_rig.catalogue,
        Deliverer(bus_rig.catalogue, bus_rig.bus_metrics, SystemClock()),
        limits=AmqpLimits(retry_delays=bus_rig.retry, attach_timeout=0.2),
    )
    bus_rig.running.append(bus)
    await bus.start([bus_rig.work(bus_rig.one), bus_rig.work(bus_rig.two)])
    envelope = bus_rig.envelope()
    await publishing.publish([envelope])
    await publishing.ping()  # Has nothing to attach.
    await eventually(lambda: refused >= 4, what="both consumers were tried twice")
    with pytest.raises(WireroomError) as caught:
        await bus.ping()
    assert (caught.value.kind, caught.value.code) == (ErrorKind.UNAVAILABLE, "bus_not_attached")
    assert bus_rig.one in caught.value.detail
    assert bus_rig.two in caught.value.detail
    broken = False
    await eventually(partial(answers, bus))
    await bus_rig.expect_once([envelope.id])
