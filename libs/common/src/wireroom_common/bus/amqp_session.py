"""One connection to the broker, from declaring the topology to its end. Any loss ends the whole session; the bus opens the next."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, cast

import aio_pika
import aiormq
import structlog
from aio_pika.abc import AbstractChannel, AbstractConnection, AbstractIncomingMessage, AbstractQueue
from aio_pika.exceptions import CONNECTION_EXCEPTIONS, AMQPError, DeliveryError
from aio_pika.exceptions import PublishError as ReturnedError

from wireroom_common.bus import topology, wire
from wireroom_common.bus.catalogue import Catalogue
from wireroom_common.bus.delivery import ConsumerUnavailableError, Deliverer, RunningTasks, backoff
from wireroom_common.bus.envelope import Envelope
from wireroom_common.bus.port import DeadLetter, Subscription
from wireroom_common.error_text import describe_error

_DEFAULT_EXCHANGE = ""

_log = structlog.get_logger("wireroom.bus")


@dataclass(frozen=True)
class AmqpLimits:
    """Sizes and times (seconds) of the AMQP adapter."""

    retry_delays: tuple[float, ...] = (0.5, 5.0, 60.0)
    concurrency: int = 8
    prefetch: int = 64
    confirms_in_flight: int = 256
    connect_timeout: float = 10.0
    declare_timeout: float = 30.0
    attach_timeout: float = 10.0
    publish_timeout: float = 10.0
    heartbeat: int = 15
    # How long a delivery waits, unacknowledged, for its consumer's database before it goes to the slowest retry queue.
    outage_patience: float = 60.0
    stop_timeout: float = 20.0


class Session:
    """A live connection with its publishing channel and consumers."""

    def __init__(
        self,
        connection: AbstractConnection,
        catalogue: Catalogue,
        deliverer: Deliverer,
        limits: AmqpLimits,
        rng: random.Random,
    ) -> None:
        self._connection = connection
        self._catalogue = catalogue
        self._deliverer = deliverer
        self._limits = limits
        self._rng = rng
        self._lost = asyncio.Event()
        self._reason = "the connection was closed"
        self._stopping = asyncio.Event()
        self._window = asyncio.Semaphore(limits.confirms_in_flight)
        self._running = RunningTasks()
        self._attaching: list[asyncio.Task[None]] = []
        self._unattached: set[str] = set()
        self._consumers: list[tuple[AbstractQueue, str]] = []
        self._publisher: aiormq.Channel
        connection.close_callbacks.add(self._on_close)

    async def open(self, subscriptions: Sequence[Subscription]) -> None:
        """Declare the topology, then publish and consume."""
        setup = await self._channel()
        await topology.declare_catalogue(setup, self._catalogue, self._limits.retry_delays)
        publisher = await self._channel()
        self._publisher = cast("aiormq.Channel", await publisher.get_underlay_channel())
        # One queue that the broker cannot serve must not keep the others waiting: its consumer alone is tried again.
        self._unattached = {subscription.consumer for subscription in subscriptions if subscription.work is not None}
        self._attaching = [asyncio.create_task(self._attach(subscription)) for subscription in subscriptions]
        if self._attaching:
            await asyncio.wait(self._attaching, timeout=self._limits.attach_timeout)

    def unattached(self) -> list[str]:
        """The work queues that do not deliver to this session yet."""
        return sorted(self._unattached)

    async def lost(self) -> str:
        """Wait until the session is of no more use; says why."""
        await self._lost.wait()
        return self._reason

    async def publish(self, envelope: Envelope) -> None:
        """Return when the broker has confirmed the event for every queue bound to its type."""
        wanted = bool(self._catalogue.events[envelope.type].consumers)
        await self._send(topology.EVENTS_EXCHANGE, envelope.type, envelope.data, wire.EventProperties(envelope), mandatory=wanted)

    async def dead_letters(self, consumer: str, limit: int) -> list[DeadLetter]:
        """Read and give back. Two readers at the same time see a part each."""
        channel = await self._connection.channel()
        letters: list[DeadLetter] = []
        try:
            queue = await channel.get_queue(topology.dead_queue(consumer), ensure=False)
            while len(letters) < limit and (message := await queue.get(no_ack=False, fail=False)) is not None:
                letters.append(dead_letter(consumer, message))
        finally:
            await channel.close()  # What was fetched and not acknowledged goes back to its place.
        return letters

    async def close(self, *, drain: bool) -> None:
        """End the session; with `drain`, let running handlers finish and acknowledge first."""
        self._stopping.set()
        for task in self._attaching:
            task.cancel()
        await asyncio.gather(*self._attaching, return_exceptions=True)
        with suppress(*CONNECTION_EXCEPTIONS, TimeoutError):
            async with asyncio.timeout(5.0):
                for queue, tag in self._consumers:
                    await queue.cancel(tag)
        # Without a connection nothing can be acknowledged: the effects that commit now are duplicates later.
        await self._running.drain(self._limits.stop_timeout if drain else 1.0)
        with suppress(*CONNECTION_EXCEPTIONS, TimeoutError):
            async with asyncio.timeout(5.0):
                await self._connection.close()

    async def _channel(self) -> AbstractChannel:
        channel = await self._connection.channel(publisher_confirms=True, on_return_raises=True)
        channel.close_callbacks.add(self._on_close)
        return channel

    async def _attach(self, subscription: Subscription) -> None:
        failures = 0
        while not (self._lost.is_set() or self._stopping.is_set()):
            channel: AbstractChannel | None = None
            try:
                async with asyncio.timeout(self._limits.attach_timeout):
                    channel = await self._connection.channel()
                    await channel.set_qos(self._limits.prefetch)
                    if subscription.work is not None:
                        queue = await channel.get_queue(subscription.consumer, ensure=False)
                    else:
                        queue = await topology.declare_broadcast(channel, subscription)
                    tag = await self._consume(queue, subscription)
            except Exception as error:  # noqa: BLE001 - whatever it was: nobody else would try this consumer again
                failures += 1
                _log.error(
                    "consumer_not_attached", consumer=subscription.consumer, failures=failures, error=describe_error(error)
                )
                if channel is not None:
                    with suppress(*CONNECTION_EXCEPTIONS, TimeoutError):
                        await channel.close()
                await self._pause(backoff(failures, first=0.5, cap=30.0, rng=self._rng))
            else:
                channel.close_callbacks.add(self._on_close)
                if channel.is_closed:
                    self._on_close(channel)
                self._consumers.append((queue, tag))
                self._unattached.discard(subscription.consumer)
                return

    async def _consume(self, queue: AbstractQueue, subscription: Subscription) -> str:
        slots = asyncio.Semaphore(self._limits.concurrency)

        async def receive(message: AbstractIncomingMessage) -> None:
            # A task of our own: the library cancels its tasks when the channel goes, in the middle of a commit.
            self._running.spawn(self._handle(subscription, message, slots))

        underlay = await queue.channel.get_underlay_channel()
        underlay.on_consumer_cancel_callbacks.add(self._on_cancel)
        return await queue.consume(receive)

    def _on_close(self, _sender: object, error: BaseException | None = None) -> None:
        if not self._lost.is_set():
            self._reason = describe_error(error) if error else "the connection was closed"
            self._lost.set()

    def _on_cancel(self, _frame: object) -> None:
        self._reason = "the broker cancelled a consumer"
        self._lost.set()

    async def _handle(self, subscription: Subscription, message: AbstractIncomingMessage, slots: asyncio.Semaphore) -> None:
        async with slots:
            if self._stopping.is_set() or self._lost.is_set():
                return  # Not acknowledged: the broker gives it to somebody else.
            try:
                await self._take(subscription, message)
            except (*CONNECTION_EXCEPTIONS, TimeoutError) as error:
                _log.warning("delivery_not_settled", consumer=subscription.consumer, error=describe_error(error))
                # Refused although the connection lives (a full retry queue): give it back, not at once.
                with suppress(*CONNECTION_EXCEPTIONS, TimeoutError):
                    await self._pause(1.0)
                    await message.reject(requeue=True)

    async def _take(self, subscription: Subscription, message: AbstractIncomingMessage) -> None:
        try:
            envelope = wire.from_message(message.headers, message.body)
        except wire.MalformedMessageError as error:
            self._deliverer.count(subscription, "dead")
            _log.error("event_malformed", consumer=subscription.consumer, error=str(error))
            if subscription.work is not None:
                await self._bury(subscription, message, wire.attempts_of(message.headers), str(error))
            await message.ack()
            return
        if subscription.broadcast is not None:
            await self._deliverer.broadcast(subscription, envelope)
        else:
            await self._work(subscription, message, envelope)
        await message.ack()

    async def _work(self, subscription: Subscription, message: AbstractIncomingMessage, envelope: Envelope) -> None:
        """Return when the message may be acknowledged: effect committed, or a copy confirmed in a retry or dead-letter queue."""
        attempts = wire.attempts_of(message.headers)
        waited, tries = 0.0, 0
        while True:
            try:
                await self._deliverer.work(subscription, envelope)
            except ConsumerUnavailableError as error:
                if waited >= self._limits.outage_patience or self._stopping.is_set():
                    slowest = max(self._limits.retry_delays)
                    await self._retry(subscription, message, attempts, slowest, describe_error(error))
                    return
                tries += 1
                seconds = backoff(tries, first=0.2, cap=5.0, rng=self._rng)
                await self._pause(seconds)
                waited += seconds
            except Exception as error:  # noqa: BLE001 - whatever a handler raises is an attempt used up
                attempts += 1
                if self._deliverer.failed(subscription, envelope, attempts, error):
                    await self._bury(subscription, message, attempts, describe_error(error))
                else:
                    delay = self._limits.retry_delays[min(attempts, len(self._limits.retry_delays)) - 1]
                    await self._retry(subscription, message, attempts, delay, describe_error(error))
                return
            else:
                return

    async def _pause(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopping.wait()

    async def _retry(
        self, subscription: Subscription, message: AbstractIncomingMessage, attempts: int, delay: float, error: str
    ) -> None:
        queue = topology.retry_queue(subscription.consumer, delay)
        copy = copy_of(message, attempts=attempts, error=error)
        await self._send(_DEFAULT_EXCHANGE, queue, copy.body, copy.properties, mandatory=True)

    async def _bury(self, subscription: Subscription, message: AbstractIncomingMessage, attempts: int, error: str) -> None:
        copy = copy_of(message, attempts=attempts, error=error)
        await self._send(topology.DEAD_EXCHANGE, subscription.consumer, copy.body, copy.properties, mandatory=True)

    async def _send(
        self, exchange: str, key: str, body: bytes, properties: aiormq.spec.Basic.Properties, *, mandatory: bool
    ) -> None:
        async with self._window:
            try:
                # Without `wait` messages leave together; each is still waited for until the broker has confirmed it.
                await self._publisher.basic_publish(
                    body,
                    exchange=exchange,
                    routing_key=key,
                    properties=properties,
                    mandatory=mandatory,
                    timeout=self._limits.publish_timeout,
                    wait=False,
                )
            except ReturnedError as error:
                raise RefusedByBrokerError(f"No queue takes '{key}'.") from error
            except TimeoutError as error:
                raise RefusedByBrokerError(f"The broker did not confirm '{key}' in time.") from error
            except DeliveryError as error:
                raise RefusedByBrokerError(f"The broker refused '{key}': a queue is full or unavailable.") from error


class RefusedByBrokerError(AMQPError):
    """The connection is fine, but this message was returned or not confirmed."""

    def __str__(self) -> str:
        return str(self.args[0])


def copy_of(message: AbstractIncomingMessage, *, attempts: int, error: str) -> aio_pika.Message:
    """The event as a new message, with what is known of its failed deliveries; nothing of what the broker noted on the old one."""
    headers = {
        name: value for name, value in message.headers.items() if not name.startswith(("x-death", "x-first-death", "x-delivery"))
    }
    return aio_pika.Message(
        message.body,
        headers={**headers, wire.ATTEMPTS_HEADER: attempts, wire.ERROR_HEADER: error},
        content_type=message.content_type,
        delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
    )


def dead_letter(consumer: str, message: AbstractIncomingMessage) -> DeadLetter:
    """What a message of a dead letters' queue tells."""
    headers = cast("Mapping[str, Any]", message.headers)
    error, attempts = headers.get(wire.ERROR_HEADER), wire.attempts_of(headers)
    if "x-death" in headers:
        # Buried by the broker: its consumers' processes ended again and again while they had it.
        error, attempts = "The process or its connection ended during each delivery.", attempts + topology.DELIVERY_LIMIT
    try:
        envelope = wire.from_message(headers, message.body)
    except wire.MalformedMessageError:
        envelope = wire.unreadable(headers, message.body)
    return DeadLetter(consumer, envelope, attempts, str(error or ""))
