"""One delivery: the same code behind both buses, so that an effect means the same in both."""

from __future__ import annotations

import asyncio
import contextvars
import random
from collections.abc import Coroutine, Sequence
from contextlib import AbstractAsyncContextManager
from typing import TypeVar

import structlog
from opentelemetry import trace
from opentelemetry.trace import SpanKind, Status, StatusCode, TracerProvider
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from prometheus_client import CollectorRegistry, Counter, Histogram
from sqlalchemy.ext.asyncio import AsyncConnection

from wireroom_common.bus.catalogue import Catalogue
from wireroom_common.bus.envelope import Envelope
from wireroom_common.bus.port import Subscription
from wireroom_common.clock import Clock
from wireroom_common.db import Database
from wireroom_common.error_text import describe_error
from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_common.inbox import first_sight

MAX_DATA_BYTES = 1024 * 1024
MAX_ATTRIBUTE_BYTES = 16 * 1024
BROADCAST_TRIES = 3

_log = structlog.get_logger("wireroom.bus")
_propagator = TraceContextTextMapPropagator()
T = TypeVar("T")


class ConsumerUnavailableError(Exception):
    """The consumer's database does not answer: no fault of the event, so the delivery does not count as an attempt."""


class BusMetrics:
    """Delivery metrics. One per registry; labels come from closed sets (consumers of the catalogue, outcomes)."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.deliveries = Counter(
            "wireroom_events_delivered_total",
            "Deliveries by consumer and outcome (done, duplicate, retry, dead, deferred).",
            ["consumer", "outcome"],
            registry=registry,
        )
        self.latency = Histogram(
            "wireroom_event_delivery_seconds",
            "Seconds from the event's creation to the commit of its effect.",
            ["consumer"],
            buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60, 300),
            registry=registry,
        )


class Deliverer:
    """Runs handlers: work in one transaction behind the inbox, broadcasts with a few tries."""

    def __init__(
        self,
        catalogue: Catalogue,
        metrics: BusMetrics,
        clock: Clock,
        *,
        tracer_provider: TracerProvider | None = None,
        handler_timeout: float = 30.0,
    ) -> None:
        self._catalogue = catalogue
        self._metrics = metrics
        self._clock = clock
        self._tracer = trace.get_tracer("wireroom.bus", tracer_provider=tracer_provider)
        self._handler_timeout = handler_timeout

    async def work(self, subscription: Subscription, envelope: Envelope) -> None:
        """Return when the effect is committed, now or by an earlier delivery.

        Raises `ConsumerUnavailableError` when the consumer's database is away, otherwise whatever the handler raised (also
        TimeoutError after the handler's time); nothing of the handler's work is kept then.
        """
        work, database = subscription.work, subscription.database
        if work is None or database is None:
            msg = f"'{subscription.consumer}' is not a work subscription."
            raise ValueError(msg)
        spec = self._catalogue.events.get(envelope.type)
        if spec is None or subscription.consumer not in spec.consumers:
            # A newer version may already have bound its types to this queue; another replica may be new enough.
            msg = f"The event type '{envelope.type}' is not one of '{subscription.consumer}' in this version."
            raise ValueError(msg)
        with self._tracer.start_as_current_span(
            f"{subscription.consumer} process",
            context=_propagator.extract({"traceparent": envelope.traceparent}),
            kind=SpanKind.CONSUMER,
            attributes={
                "messaging.operation.type": "process",
                "messaging.destination.name": subscription.consumer,
                "messaging.message.id": str(envelope.id),
                "cloudevents.event_type": envelope.type,
            },
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            try:
                async with asyncio.timeout(self._handler_timeout), _transaction(database, subscription, envelope) as connection:
                    fresh = await first_sight(connection, subscription.consumer, envelope.id)
                    if fresh:
                        await work(connection, envelope)
            except Exception as error:
                span.set_status(Status(StatusCode.ERROR, describe_error(error)))
                if isinstance(error, WireroomError) and error.kind is ErrorKind.UNAVAILABLE and not await _answers(database):
                    self.count(subscription, "deferred")
                    raise ConsumerUnavailableError(f"The database of '{subscription.consumer}' does not answer.") from error
                raise
        self.count(subscription, "done" if fresh else "duplicate")
        if fresh:
            seconds = max(0.0, (self._clock.now() - envelope.time).total_seconds())
            self._metrics.latency.labels(subscription.consumer).observe(seconds)
            _log.debug("event_delivered", consumer=subscription.consumer, type=envelope.type, event_id=str(envelope.id))

    async def broadcast(self, subscription: Subscription, envelope: Envelope) -> None:
        """Run a broadcast handler, a few times if it raises. Never raises: broadcasts are resynchronised by their consumers."""
        handler = subscription.broadcast
        if handler is None:
            msg = f"'{subscription.consumer}' is not a broadcast subscription."
            raise ValueError(msg)
        for attempt in range(1, BROADCAST_TRIES + 1):
            with self._tracer.start_as_current_span(
                f"{subscription.consumer} process",
                context=_propagator.extract({"traceparent": envelope.traceparent}),
                kind=SpanKind.CONSUMER,
                attributes={"messaging.message.id": str(envelope.id), "cloudevents.event_type": envelope.type},
            ):
                try:
                    async with asyncio.timeout(self._handler_timeout):
                        await handler(envelope)
                except Exception as error:  # noqa: BLE001 - any failure of a handler is handled alike: counted, tried again
                    last = attempt == BROADCAST_TRIES
                    self.count(subscription, "dead" if last else "retry")
                    _log.warning(
                        "broadcast_failed",
                        consumer=subscription.consumer,
                        type=envelope.type,
                        event_id=str(envelope.id),
                        attempt=attempt,
                        given_up=last,
                        error=describe_error(error),
                    )
                else:
                    self.count(subscription, "done")
                    return
            if attempt < BROADCAST_TRIES:
                await asyncio.sleep(0.1 * attempt)

    def failed(self, subscription: Subscription, envelope: Envelope, attempts: int, error: BaseException) -> bool:
        """Count and log a failed work delivery; True if it was the last one the subscription allows."""
        dead = attempts >= subscription.max_attempts
        self.count(subscription, "dead" if dead else "retry")
        (_log.error if dead else _log.warning)(
            "event_dead" if dead else "event_retry",
            consumer=subscription.consumer,
            type=envelope.type,
            event_id=str(envelope.id),
            attempts=attempts,
            error=describe_error(error),
        )
        return dead

    def count(self, subscription: Subscription, outcome: str) -> None:
        """Count one outcome."""
        self._metrics.deliveries.labels(subscription.consumer, outcome).inc()


class RunningTasks:
    """Tasks in flight, each in an empty context: neither principal nor trace of whoever published leaks into a handler."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[object]] = set()

    def spawn(self, work: Coroutine[object, object, T]) -> asyncio.Task[T]:
        """Start `work`."""
        task = asyncio.get_running_loop().create_task(work, context=contextvars.Context())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def drain(self, timeout: float) -> None:  # noqa: ASYNC109 - the limit is on the wait; what runs longer is cancelled here
        """Wait for all of them at most `timeout` seconds, then cancel the rest (their transactions roll back)."""
        if not self._tasks:
            return
        _done, late = await asyncio.wait(set(self._tasks), timeout=timeout)
        for task in late:
            task.cancel()
        if late:
            await asyncio.wait(late, timeout=5.0)


def check_subscriptions(catalogue: Catalogue, subscriptions: Sequence[Subscription]) -> None:
    """ValueError unless each subscription fits the catalogue and no consumer is declared twice."""
    queues = catalogue.consumers()
    seen: set[str] = set()
    for subscription in subscriptions:
        name = subscription.consumer
        if name in seen:
            raise ValueError(f"The consumer '{name}' is subscribed twice.")
        seen.add(name)
        if subscription.work is not None and name not in queues:
            raise ValueError(f"No event of the catalogue names the consumer '{name}'.")
        for event in sorted(subscription.types if subscription.broadcast is not None else ()):
            spec = catalogue.events.get(event)
            if spec is None or not spec.broadcast:
                raise ValueError(f"'{event}', wanted by '{name}', is not a broadcast event of the catalogue.")


def refusal(catalogue: Catalogue, envelope: Envelope) -> str | None:
    """Why no bus takes this envelope; None if it may be published."""
    if envelope.type not in catalogue.events:
        return f"The event type '{envelope.type[:100]}' is not in the catalogue."
    if len(envelope.data) > MAX_DATA_BYTES:
        return f"The payload has {len(envelope.data)} bytes; events carry ids, at most {MAX_DATA_BYTES} bytes."
    attributes = (
        envelope.source,
        envelope.subject,
        envelope.actor,
        envelope.traceparent,
        envelope.causation_id,
        envelope.partition_key,
    )
    if sum(len(value.encode("utf-8", "surrogatepass")) for value in attributes) > MAX_ATTRIBUTE_BYTES:
        return f"The attributes are longer than {MAX_ATTRIBUTE_BYTES} bytes."
    return None


def backoff(attempt: int, *, first: float, cap: float, rng: random.Random) -> float:
    """Seconds to wait after failed attempt number `attempt` (from 1): doubling from `first` up to `cap`, ± 20 %."""
    plain = min(cap, first * float(2 ** min(attempt - 1, 30)))
    return min(cap, plain * rng.uniform(0.8, 1.2))


def _transaction(
    database: Database, subscription: Subscription, envelope: Envelope
) -> AbstractAsyncContextManager[AsyncConnection]:
    if envelope.tenant_id is None or subscription.as_system:
        return database.system()
    return database.tenant(envelope.tenant_id)


async def _answers(database: Database) -> bool:
    try:
        async with asyncio.timeout(5.0):
            await database.ping()
    except Exception:  # noqa: BLE001 - the question is only whether it answers
        return False
    return True
