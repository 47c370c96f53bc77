"""The bus of one process: the relay hands events straight to the subscriptions; what fails waits in the consumer's database."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from contextlib import suppress

import structlog

from wireroom_common.bus.catalogue import Catalogue
from wireroom_common.bus.delivery import (
    ConsumerUnavailableError,
    Deliverer,
    RunningTasks,
    backoff,
    check_subscriptions,
    refusal,
)
from wireroom_common.bus.envelope import Envelope
from wireroom_common.bus.parking import Parked, Parking
from wireroom_common.bus.port import DeadLetter, PublishError, Subscription
from wireroom_common.db import Database
from wireroom_common.error_text import describe_error
from wireroom_common.errors import ErrorKind, WireroomError, not_found

RETRY_BATCH = 32
IDLE_POLL_SECONDS = 5.0
# Longer than a handler may take, so that a delivery that still runs is not started a second time.
LEASE_SECONDS = 60.0
MOST_PATIENCE_SECONDS = 10.0
# At once, so that parking a whole batch leaves connections to others.
PARKED_AT_ONCE = 4

_log = structlog.get_logger("wireroom.bus")


class LocalBus:
    """`publish` returns when each consumer has committed the effect or its database holds the event for a retry."""

    def __init__(
        self,
        catalogue: Catalogue,
        deliverer: Deliverer,
        *,
        concurrency: int = 8,
        park_after: float = 1.0,
        first_retry: float = 0.2,
        retry_cap: float = 60.0,
        stop_timeout: float = 20.0,
        rng: random.Random | None = None,
    ) -> None:
        self._catalogue = catalogue
        self._deliverer = deliverer
        self._concurrency = concurrency
        self._park_after = park_after
        self._first_retry = first_retry
        self._retry_cap = retry_cap
        self._stop_timeout = stop_timeout
        self._rng = rng or random.Random()  # noqa: S311 - jitter, not a secret
        self._work: dict[str, Subscription] = {}
        self._broadcast: list[Subscription] = []
        self._slots: dict[str, asyncio.Semaphore] = {}
        self._loops: list[_RetryLoop] = []
        self._progress: dict[str, float] = {}
        self._parking_slots = asyncio.Semaphore(PARKED_AT_ONCE)
        self._running = RunningTasks()
        self._open = False

    async def start(self, subscriptions: Sequence[Subscription]) -> None:
        """Begin to deliver. ValueError if the catalogue names a consumer that is not among `subscriptions`: its events would be lost."""
        check_subscriptions(self._catalogue, subscriptions)
        self._work = {s.consumer: s for s in subscriptions if s.work is not None}
        self._broadcast = [s for s in subscriptions if s.broadcast is not None]
        missing = sorted(set(self._catalogue.consumers()) - set(self._work))
        if missing:
            raise ValueError(f"No subscription in this process for {', '.join(missing)}: the events meant for it would be lost.")
        self._slots = {s.consumer: asyncio.Semaphore(self._concurrency) for s in subscriptions}
        by_database: dict[int, tuple[Database, list[str]]] = {}
        for subscription in self._work.values():
            if subscription.database is not None:
                by_database.setdefault(id(subscription.database), (subscription.database, []))[1].append(subscription.consumer)
        self._loops = [_RetryLoop(self, database, consumers) for database, consumers in by_database.values()]
        self._open = True
        for loop in self._loops:
            loop.start()

    async def publish(self, envelopes: Sequence[Envelope]) -> None:
        if not self._open:
            raise WireroomError(ErrorKind.UNAVAILABLE, "bus_unavailable", "The event bus is not running.", retry_after=1)
        refused = {envelope.id: reason for envelope in envelopes if (reason := refusal(self._catalogue, envelope))}
        tasks = [
            self._running.spawn(self._hand_over(envelope, consumer))
            for envelope in envelopes
            if envelope.id not in refused
            for consumer in sorted(self._catalogue.events[envelope.type].consumers)
        ]
        tasks += [
            self._running.spawn(self._show(subscription, envelope))
            for envelope in envelopes
            for subscription in self._broadcast
            if envelope.id not in refused and envelope.type in subscription.types
        ]
        results = await asyncio.gather(*tasks, return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise WireroomError(
                    ErrorKind.UNAVAILABLE, "bus_unavailable", "A consumer of events can take none at the moment.", retry_after=1
                ) from result
        if refused:
            raise PublishError(refused, unfit=refused.keys())

    async def dead_letters(self, consumer: str, limit: int = 100) -> list[DeadLetter]:
        subscription = self._work.get(consumer)
        if subscription is None or subscription.database is None:
            raise not_found("consumer")
        return await Parking(subscription.database).dead(consumer, limit)

    async def ping(self) -> None:
        if not self._open:
            raise WireroomError(ErrorKind.UNAVAILABLE, "bus_unavailable", "The event bus is not running.")

    async def stop(self) -> None:
        self._open = False
        for loop in self._loops:
            await loop.stop()
        await self._running.drain(self._stop_timeout)

    async def redeliver(self, parked: Parked, parking: Parking) -> None:
        """One more attempt at a parked delivery; records how it went."""
        subscription, envelope = self._work[parked.consumer], parked.envelope
        if parked.attempts > subscription.max_attempts:
            # The process died in the last attempt, perhaps of it: the lease alone counted it.
            error: Exception = RuntimeError("The process ended while the event was handled.")
            await self._record(parking, parked, subscription.max_attempts, error)
            return
        async with self._slots[parked.consumer]:
            try:
                await self._deliverer.work(subscription, envelope)
            except ConsumerUnavailableError as error:
                await parking.again(
                    parked.consumer, envelope.id, attempts=parked.attempts - 1, delay=1.0, dead=False, error=describe_error(error)
                )
            except Exception as error:  # noqa: BLE001 - whatever a handler raises is an attempt used up
                await self._record(parking, parked, parked.attempts, error)
            else:
                await parking.done(parked.consumer, envelope.id)

    def spawn_redelivery(self, parked: Parked, parking: Parking) -> asyncio.Task[None]:
        """`redeliver` as a task that `stop` waits for."""
        return self._running.spawn(self.redeliver(parked, parking))

    async def _record(self, parking: Parking, parked: Parked, attempts: int, error: Exception) -> None:
        subscription = self._work[parked.consumer]
        dead = self._deliverer.failed(subscription, parked.envelope, attempts, error)
        await parking.again(
            parked.consumer,
            parked.envelope.id,
            attempts=attempts,
            delay=self._delay(attempts),
            dead=dead,
            error=describe_error(error),
        )

    async def _hand_over(self, envelope: Envelope, consumer: str) -> None:
        subscription = self._work[consumer]
        database = subscription.database
        if database is None:
            msg = f"'{consumer}' has no database."
            raise ValueError(msg)
        slots = self._slots[consumer]
        if not await self._slot(consumer):
            # A slow consumer must not hold up the producer's other events.
            async with self._parking_slots:
                await self._park(subscription, database, envelope, attempts=0, delay=0.0, dead=False, error="")
            return
        try:
            await self._deliverer.work(subscription, envelope)
        except ConsumerUnavailableError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever a handler raises is an attempt used up
            dead = self._deliverer.failed(subscription, envelope, 1, error)
            await self._park(
                subscription, database, envelope, attempts=1, delay=self._delay(1), dead=dead, error=describe_error(error)
            )
        finally:
            self._progress[consumer] = asyncio.get_running_loop().time()
            slots.release()

    async def _slot(self, consumer: str) -> bool:
        """Wait for one of the consumer's slots while it gets on, but not for ever; False if the event had better be parked."""
        loop = asyncio.get_running_loop()
        latest = loop.time() + MOST_PATIENCE_SECONDS
        while True:
            try:
                async with asyncio.timeout(self._park_after):
                    await self._slots[consumer].acquire()
            except TimeoutError:
                if loop.time() > latest or loop.time() - self._progress.get(consumer, 0.0) > self._park_after:
                    return False
            else:
                return True

    async def _show(self, subscription: Subscription, envelope: Envelope) -> None:
        async with self._slots[subscription.consumer]:
            await self._deliverer.broadcast(subscription, envelope)

    async def _park(
        self,
        subscription: Subscription,
        database: Database,
        envelope: Envelope,
        *,
        attempts: int,
        delay: float,
        dead: bool,
        error: str,
    ) -> None:
        await Parking(database).put(subscription.consumer, envelope, attempts=attempts, delay=delay, dead=dead, error=error)
        for loop in self._loops:
            if loop.database is database:
                loop.wake()

    def _delay(self, attempts: int) -> float:
        return backoff(attempts, first=self._first_retry, cap=self._retry_cap, rng=self._rng)


class _RetryLoop:
    """Redelivers what is due in one database. Polls, because other replicas may have parked events and gone."""

    def __init__(self, bus: LocalBus, database: Database, consumers: list[str]) -> None:
        self.database = database
        self._bus = bus
        self._consumers = consumers
        self._parking = Parking(database)
        self._wake = asyncio.Event()
        self._stopping = False
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._run())

    def wake(self) -> None:
        self._wake.set()

    async def stop(self) -> None:
        self._stopping = True
        self._wake.set()
        if self._task is not None:
            # The redeliveries themselves are the bus's tasks and go on.
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        failures = 0
        while not self._stopping:
            self._wake.clear()
            try:
                due = await self._parking.take(self._consumers, RETRY_BATCH, LEASE_SECONDS)
                if due:
                    tasks = [self._bus.spawn_redelivery(parked, self._parking) for parked in due]
                    for result in await asyncio.gather(*(asyncio.shield(task) for task in tasks), return_exceptions=True):
                        if isinstance(result, BaseException):
                            _log.warning("redelivery_not_recorded", database=self.database.service, error=describe_error(result))
                    continue
                seconds = await self._parking.next_due(self._consumers)
                failures = 0
            except Exception as error:  # noqa: BLE001 - the rows are safe; the database may be away
                failures += 1
                seconds = backoff(failures, first=0.2, cap=5.0, rng=random.Random())  # noqa: S311 - jitter, not a secret
                if failures == 1:
                    _log.warning("redelivery_paused", database=self.database.service, error=describe_error(error))
            with suppress(TimeoutError):
                async with asyncio.timeout(IDLE_POLL_SECONDS if seconds is None else min(IDLE_POLL_SECONDS, max(0.01, seconds))):
                    await self._wake.wait()
