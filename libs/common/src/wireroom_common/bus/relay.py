"""Moves committed events from a service's outbox to the bus."""

from __future__ import annotations

import asyncio
import random
from base64 import b64decode
from collections.abc import AsyncIterator, Mapping
from collections.abc import Set as AbstractSet
from contextlib import asynccontextmanager, suppress
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import orjson
import psycopg
import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge
from psycopg import sql
from sqlalchemy import text

from wireroom_common.bus.delivery import backoff
from wireroom_common.bus.envelope import Envelope
from wireroom_common.bus.port import Bus, PublishError
from wireroom_common.db import Database
from wireroom_common.db.prepared import Statement
from wireroom_common.error_text import describe_error

DEPTH_COUNTED_TO = 100_000
SAMPLE_SECONDS = 5.0
# Refusals of an event that no state of the bus would cure, before it is parked. With the delays between them: a quarter of an hour.
MAX_ATTEMPTS = 20
# Of a UUID in front of each row, so that of an unreadable one it is known which it is.
_ID_CHARACTERS = 36
# How long events may gather after a batch that was not full.
GATHER_SECONDS = 0.025

# $1: how many, $2: for how many seconds.
_TAKE = Statement(
    """
    WITH due AS MATERIALIZED (
        SELECT id FROM outbox WHERE leased_until IS NULL OR leased_until < now()
        ORDER BY id LIMIT CAST($1 AS int) FOR UPDATE SKIP LOCKED
    )
    UPDATE outbox SET leased_until = now() + make_interval(secs => CAST($2 AS float8)) FROM due WHERE outbox.id = due.id
    RETURNING CAST(outbox.id AS text) || json_build_object('id', outbox.id, 'tenant_id', tenant_id, 'type', type, 'subject', subject,
        'partition_key', partition_key, 'actor', actor, 'traceparent', traceparent, 'causation_id', causation_id,
        'data', encode(data, 'base64'), 'time', created_at)
    """
)
# A parked event has `leased_until = 'infinity'`: no relay takes it until whoever replays it ends the lease.
_FORGET = Statement("DELETE FROM outbox WHERE id = ANY(CAST($1 AS uuid[]))")

_log = structlog.get_logger("wireroom.relay")


class RelayMetrics:
    """Metrics of all relays of a process. One per registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.published = Counter(
            "wireroom_outbox_published_total", "Events handed over to the bus and deleted.", ["service"], registry=registry
        )
        self.failures = Counter(
            "wireroom_outbox_failures_total",
            "Batches or single events that were not handed over.",
            ["service"],
            registry=registry,
        )
        self.depth = Gauge(
            "wireroom_outbox_depth_events", f"Events waiting, counted up to {DEPTH_COUNTED_TO}.", ["service"], registry=registry
        )
        self.oldest = Gauge("wireroom_outbox_oldest_seconds", "Age of the oldest waiting event.", ["service"], registry=registry)
        self.parked = Gauge(
            "wireroom_outbox_parked_events",
            f"Events that no bus takes and nobody tries any more, until they are replayed; counted up to {DEPTH_COUNTED_TO}.",
            ["service"],
            registry=registry,
        )


class Relay:
    """The outbox of one service. Any number of relays (replicas) may share it.

    Rows are leased, published with no transaction open, and deleted: at-least-once. A relay that dies in between leaves the rest to
    the end of the lease. An event that the bus refuses for what it is (a type that this version does not know, a row that cannot be read)
    is tried `max_attempts` times, over a quarter of an hour, because another replica may be newer; then it is parked.
    """

    def __init__(
        self,
        database: Database,
        bus: Bus,
        metrics: RelayMetrics,
        *,
        batch_size: int = 256,
        lease: float = 15.0,
        poll_interval: float = 1.0,
        max_attempts: int = MAX_ATTEMPTS,
        rng: random.Random | None = None,
    ) -> None:
        self._database = database
        self._bus = bus
        self._metrics = metrics
        self._batch_size = batch_size
        self._lease = timedelta(seconds=lease)
        self._poll_interval = poll_interval
        self._max_attempts = max_attempts
        self._rng = rng or random.Random()  # noqa: S311 - jitter, not a secret
        self._wake = asyncio.Event()
        self._stopping = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._sampled_at = float("-inf")

    async def start(self) -> None:
        """Begin to relay. A database or bus that is away is waited for, for ever."""
        self._tasks = [asyncio.create_task(self._drain()), asyncio.create_task(self._listen())]

    async def stop(self, timeout: float = 20.0) -> None:  # noqa: ASYNC109 - what runs longer is cancelled here
        """Finish the batch in hand (at most `timeout` seconds), then stop."""
        self._stopping.set()
        self._wake.set()
        if not self._tasks:
            return
        drain, listen = self._tasks
        listen.cancel()
        await asyncio.wait([drain], timeout=timeout)
        drain.cancel()
        await asyncio.gather(drain, listen, return_exceptions=True)
        self._tasks = []

    async def _drain(self) -> None:
        failures = 0
        while not self._stopping.is_set():
            # Cleared before the rows are read: a commit after the read wakes the next round.
            self._wake.clear()
            try:
                count = await self._relay_batch()
                await self._sample()
            except Exception as error:  # noqa: BLE001 - whatever it was, the rows are safe and are tried again
                failures += 1
                self._metrics.failures.labels(self._database.service).inc()
                _log.warning(
                    "outbox_relay_failed", service=self._database.service, failures=failures, error=describe_error(error)
                )
                await self._pause(backoff(failures, first=0.05, cap=2.0, rng=self._rng))
                continue
            failures = 0
            if 0 < count < self._batch_size:
                # Under load the next batch is not taken row by row.
                await self._pause(GATHER_SECONDS)
            if count < self._batch_size:
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._poll_interval):
                        await self._wake.wait()

    async def _pause(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopping.wait()

    async def _relay_batch(self) -> int:
        envelopes, unreadable = await self._take()
        if unreadable:
            await self._postpone(unreadable, unfit=unreadable.keys())
        if not envelopes:
            return len(unreadable)
        ids = [envelope.id for envelope in envelopes]
        refused: dict[UUID, str] = {}
        unfit: frozenset[UUID] = frozenset()
        try:
            async with self._lease_kept(ids):
                await self._bus.publish(envelopes)
        except PublishError as error:
            refused, unfit = error.failed, error.unfit
        except BaseException:
            # Also when cancelled: another relay need not wait for the lease to run out.
            await asyncio.shield(self._release(ids))
            raise
        delivered = [event_id for event_id in ids if event_id not in refused]
        await self._forget(delivered)
        self._metrics.published.labels(self._database.service).inc(len(delivered))
        if refused:
            await self._postpone(refused, unfit=unfit)
        return len(envelopes) + len(unreadable)

    async def _take(self) -> tuple[list[Envelope], dict[UUID, str]]:
        """What is due, and why some of it cannot be read."""
        async with self._database.prepared_system() as transaction:
            rows = await transaction.run(_TAKE, str(self._batch_size), str(self._lease.total_seconds()))
        envelopes: list[Envelope] = []
        unreadable: dict[UUID, str] = {}
        for row in rows:
            try:
                envelopes.append(_envelope(f"wireroom/{self._database.service}", orjson.loads(row[_ID_CHARACTERS:])))
            except (ValueError, KeyError) as error:
                unreadable[UUID(row[:_ID_CHARACTERS].decode())] = f"The row cannot be read: {describe_error(error)}"
        return sorted(envelopes, key=lambda envelope: envelope.id), unreadable

    @asynccontextmanager
    async def _lease_kept(self, ids: list[UUID]) -> AsyncIterator[None]:
        async def renew() -> None:
            while True:
                await asyncio.sleep(self._lease.total_seconds() / 3)
                try:
                    async with self._database.system() as connection:
                        await connection.execute(
                            text("UPDATE outbox SET leased_until = now() + :lease WHERE id = ANY(:ids)"),
                            {"lease": self._lease, "ids": ids},
                        )
                except Exception as error:  # noqa: BLE001 - at worst the events are published twice
                    _log.warning("outbox_lease_not_renewed", service=self._database.service, error=describe_error(error))

        task = asyncio.create_task(renew())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _forget(self, ids: list[UUID]) -> None:
        if ids:
            async with self._database.prepared_system() as transaction:
                transaction.add(_FORGET, f"{{{','.join(map(str, ids))}}}")

    async def _release(self, ids: list[UUID]) -> None:
        with suppress(Exception):  # The database may be what failed; then the lease runs out.
            async with self._database.system() as connection:
                await connection.execute(
                    # No attempt of the events': the bus was away.
                    text("UPDATE outbox SET leased_until = NULL WHERE id = ANY(:ids)"),
                    {"ids": ids},
                )

    async def _postpone(self, refused: Mapping[UUID, str], *, unfit: AbstractSet[UUID]) -> None:
        """Refused rows stay, each with a growing delay of its own, so that they hold up nobody else; unfit ones are parked in the end."""
        self._metrics.failures.labels(self._database.service).inc(len(refused))
        async with self._database.system() as connection:
            rows = await connection.execute(
                text(
                    "UPDATE outbox SET attempts = attempts + 1, leased_until = CASE"
                    " WHEN id = ANY(:unfit) AND attempts + 1 >= :most THEN 'infinity'"
                    " ELSE now() + least(60, 0.5 * power(2, least(attempts, 10))) * interval '1 second' END"
                    " WHERE id = ANY(:ids) RETURNING id, type, attempts, leased_until = 'infinity' AS parked"
                ),
                {"ids": list(refused), "unfit": list(unfit), "most": self._max_attempts},
            )
            states = rows.all()
        # Of a whole batch that is refused the first few tell the reason; what is given up is told one by one.
        for row in [*[row for row in states if not row.parked][:5], *[row for row in states if row.parked]]:
            _log.error(
                "outbox_event_parked" if row.parked else "outbox_event_refused",
                service=self._database.service,
                event_id=str(row.id),
                type=row.type[:100],
                attempts=row.attempts,
                reason=refused[row.id],
            )

    async def _sample(self) -> None:
        now = asyncio.get_running_loop().time()
        if now - self._sampled_at < SAMPLE_SECONDS:
            return
        self._sampled_at = now
        async with self._database.system() as connection:
            row = (
                await connection.execute(
                    text(
                        "SELECT (SELECT count(*) FROM"
                        " (SELECT 1 FROM outbox WHERE leased_until IS DISTINCT FROM 'infinity' LIMIT :most) AS counted),"
                        " (SELECT extract(epoch FROM now() - created_at)::float8 FROM outbox"
                        " WHERE leased_until IS DISTINCT FROM 'infinity' AND isfinite(created_at) ORDER BY id LIMIT 1),"
                        " (SELECT count(*) FROM (SELECT 1 FROM outbox WHERE leased_until = 'infinity' LIMIT :most) AS counted)"
                    ),
                    {"most": DEPTH_COUNTED_TO},
                )
            ).one()
        self._metrics.depth.labels(self._database.service).set(row[0])
        self._metrics.oldest.labels(self._database.service).set(row[1] or 0.0)
        self._metrics.parked.labels(self._database.service).set(row[2])

    async def _listen(self) -> None:
        """Wake on NOTIFY; while the connection is away the poll interval is the floor."""
        attempt = 0
        while True:
            try:
                async with await psycopg.AsyncConnection.connect(
                    self._database.listen_conninfo(),
                    autocommit=True,
                    connect_timeout=5,
                    keepalives_idle=30,
                    keepalives_interval=10,
                    keepalives_count=3,
                    application_name=f"wireroom-{self._database.service}-relay",
                ) as connection:
                    await connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(f"{self._database.schema}_outbox")))
                    attempt = 0
                    self._wake.set()
                    async for _ in connection.notifies():
                        self._wake.set()
                        # What comes meanwhile is read in one go: the relay gathers as long anyway.
                        await asyncio.sleep(GATHER_SECONDS)
            except (psycopg.Error, OSError) as error:
                attempt += 1
                if attempt == 1:
                    _log.warning("outbox_listen_lost", service=self._database.service, error=describe_error(error))
            await asyncio.sleep(backoff(max(attempt, 1), first=0.2, cap=5.0, rng=self._rng))


def _envelope(source: str, row: Mapping[str, Any]) -> Envelope:
    return Envelope(
        id=UUID(row["id"]),
        source=source,
        type=row["type"],
        time=datetime.fromisoformat(row["time"]),
        subject=row["subject"],
        data=b64decode(row["data"]),
        tenant_id=UUID(row["tenant_id"]) if row["tenant_id"] else None,
        actor=row["actor"],
        traceparent=row["traceparent"],
        causation_id=row["causation_id"],
        partition_key=row["partition_key"],
    )
