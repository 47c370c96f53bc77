"""The bus between processes: RabbitMQ."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from contextlib import suppress
from uuid import UUID

import aio_pika
import structlog
from yarl import URL

from wireroom_common.bus.amqp_session import AmqpLimits, RefusedByBrokerError, Session
from wireroom_common.bus.catalogue import Catalogue
from wireroom_common.bus.delivery import Deliverer, backoff, check_subscriptions, refusal
from wireroom_common.bus.envelope import Envelope
from wireroom_common.bus.port import DeadLetter, PublishError, Subscription
from wireroom_common.error_text import describe_error
from wireroom_common.errors import ErrorKind, WireroomError, not_found

_log = structlog.get_logger("wireroom.bus")


class AmqpBus:
    """Reconnects for ever. While the broker is away `publish` and `ping` raise UNAVAILABLE at once, and events wait in the outbox."""

    def __init__(
        self,
        url: str,
        catalogue: Catalogue,
        deliverer: Deliverer,
        *,
        limits: AmqpLimits | None = None,
        name: str = "wireroom",
        rng: random.Random | None = None,
    ) -> None:
        self._limits = limits or AmqpLimits()
        parsed = URL(url)
        # Without a heartbeat a broker that is cut off looks like a quiet one.
        self._url = parsed if "heartbeat" in parsed.query else parsed.update_query(heartbeat=str(self._limits.heartbeat))
        self._catalogue = catalogue
        self._deliverer = deliverer
        self._name = name
        self._rng = rng or random.Random()  # noqa: S311 - jitter, not a secret
        self._subscriptions: Sequence[Subscription] = ()
        self._session: Session | None = None
        self._ready = asyncio.Event()
        self._stopping = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self, subscriptions: Sequence[Subscription]) -> None:
        """Connect and begin. Returns without a connection after the connect time: services start in any order, `ping` tells."""
        check_subscriptions(self._catalogue, subscriptions)
        self._subscriptions = list(subscriptions)
        self._task = asyncio.create_task(self._connect_for_ever())
        with suppress(TimeoutError):
            async with asyncio.timeout(self._limits.connect_timeout):
                await self._ready.wait()

    async def publish(self, envelopes: Sequence[Envelope]) -> None:
        session = self._live()
        failed = {envelope.id: reason for envelope in envelopes if (reason := refusal(self._catalogue, envelope))}
        accepted = [envelope for envelope in envelopes if envelope.id not in failed]
        results = await asyncio.gather(*(session.publish(envelope) for envelope in accepted), return_exceptions=True)
        returned: dict[UUID, str] = {}
        for envelope, result in zip(accepted, results, strict=True):
            if isinstance(result, RefusedByBrokerError):
                returned[envelope.id] = str(result)
            elif isinstance(result, BaseException):
                raise _unavailable() from result
        if returned or failed:
            raise PublishError({**failed, **returned}, unfit=failed.keys())

    async def dead_letters(self, consumer: str, limit: int = 100) -> list[DeadLetter]:
        if consumer not in self._catalogue.consumers():
            raise not_found("consumer")
        async with asyncio.timeout(self._limits.publish_timeout):
            return await self._live().dead_letters(consumer, limit)

    async def ping(self) -> None:
        if unattached := self._live().unattached():
            raise WireroomError(
                ErrorKind.UNAVAILABLE,
                "bus_not_attached",
                f"The message broker does not deliver from {', '.join(unattached)} yet; it is tried again.",
                retry_after=2,
            )

    async def stop(self) -> None:
        self._stopping.set()
        if self._task is not None:
            await self._task
            self._task = None

    def _live(self) -> Session:
        if self._session is None:
            raise _unavailable()
        return self._session

    async def _connect_for_ever(self) -> None:
        failures = 0
        while not self._stopping.is_set():
            try:
                reason = await self._run_session()
                failures = 0
            except Exception as error:  # noqa: BLE001 - whatever keeps the broker away, the next try may succeed
                reason = describe_error(error)
                failures += 1
            if self._stopping.is_set():
                return
            _log.warning("bus_disconnected", reason=reason, failures=failures)
            with suppress(TimeoutError):
                async with asyncio.timeout(backoff(max(1, failures), first=0.1, cap=2.0, rng=self._rng)):
                    await self._stopping.wait()

    async def _run_session(self) -> str:
        connection = await aio_pika.connect(
            self._url, timeout=self._limits.connect_timeout, client_properties={"connection_name": self._name}
        )
        session = Session(connection, self._catalogue, self._deliverer, self._limits, self._rng)
        lost = asyncio.create_task(session.lost())
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            async with asyncio.timeout(self._limits.declare_timeout):
                await session.open(self._subscriptions)
            self._session = session
            self._ready.set()
            _log.info("bus_connected", subscriptions=len(self._subscriptions))
            await asyncio.wait([lost, stopping], return_when=asyncio.FIRST_COMPLETED)
            return lost.result() if lost.done() else "stopping"
        finally:
            self._session = None
            drain = stopping.done() and not lost.done()
            for task in (lost, stopping):
                task.cancel()
            await session.close(drain=drain)


def _unavailable() -> WireroomError:
    return WireroomError(
        ErrorKind.UNAVAILABLE, "bus_unavailable", "The message broker does not answer; events wait until it does.", retry_after=2
    )
