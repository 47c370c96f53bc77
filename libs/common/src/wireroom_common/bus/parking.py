"""The `deliveries` table of a consumer's database: events to be tried again, and dead ones, where no broker holds them."""

from __future__ import annotations

import base64
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

import orjson
from sqlalchemy import text

from wireroom_common.bus.envelope import Envelope
from wireroom_common.bus.port import DeadLetter
from wireroom_common.db import Database


@dataclass(frozen=True)
class Parked:
    """A due delivery, leased to the caller. `attempts` already counts the one about to be made."""

    consumer: str
    envelope: Envelope
    attempts: int


class Parking:
    """Deliveries of one database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def put(self, consumer: str, envelope: Envelope, *, attempts: int, delay: float, dead: bool, error: str) -> None:
        """Park an event. One that is parked already keeps its state: it was published a second time."""
        async with self._database.system() as connection:
            await connection.execute(
                text(
                    "INSERT INTO deliveries (consumer, event_id, state, envelope, attempts, next_attempt_at, error)"
                    " VALUES (:consumer, :event_id, :state, :envelope, :attempts, now() + :delay, :error) ON CONFLICT DO NOTHING"
                ),
                {
                    "consumer": consumer,
                    "event_id": envelope.id,
                    "state": "dead" if dead else "retry",
                    "envelope": to_bytes(envelope),
                    "attempts": attempts,
                    "delay": timedelta(seconds=delay),
                    "error": error,
                },
            )

    async def take(self, consumers: list[str], limit: int, lease: float) -> list[Parked]:
        """Lease at most `limit` due deliveries for `lease` seconds, counting the attempt; whoever dies meanwhile has used it up."""
        async with self._database.system() as connection:
            rows = await connection.execute(
                text(
                    "WITH due AS MATERIALIZED (SELECT consumer, event_id FROM deliveries WHERE state = 'retry'"
                    " AND consumer = ANY(:consumers) AND next_attempt_at <= now()"
                    " ORDER BY next_attempt_at LIMIT :limit FOR UPDATE SKIP LOCKED)"
                    " UPDATE deliveries d SET attempts = d.attempts + 1, next_attempt_at = now() + :lease, updated_at = now()"
                    " FROM due WHERE d.consumer = due.consumer AND d.event_id = due.event_id"
                    " RETURNING d.consumer, d.envelope, d.attempts"
                ),
                {"consumers": consumers, "limit": limit, "lease": timedelta(seconds=lease)},
            )
            return [Parked(row.consumer, from_bytes(bytes(row.envelope)), row.attempts) for row in rows]

    async def next_due(self, consumers: list[str]) -> float | None:
        """Seconds until the next delivery is due (0 or less: now); None if nothing waits."""
        async with self._database.system() as connection:
            seconds: float | None = await connection.scalar(
                text(
                    "SELECT extract(epoch FROM min(next_attempt_at) - now())::float8 FROM deliveries"
                    " WHERE state = 'retry' AND consumer = ANY(:consumers)"
                ),
                {"consumers": consumers},
            )
        return seconds

    async def done(self, consumer: str, event_id: UUID) -> None:
        """Forget a delivery whose effect is committed."""
        async with self._database.system() as connection:
            await connection.execute(
                text("DELETE FROM deliveries WHERE consumer = :consumer AND event_id = :event_id"),
                {"consumer": consumer, "event_id": event_id},
            )

    async def again(self, consumer: str, event_id: UUID, *, attempts: int, delay: float, dead: bool, error: str) -> None:
        """Record how an attempt failed: due again after `delay` seconds, or dead."""
        async with self._database.system() as connection:
            await connection.execute(
                text(
                    "UPDATE deliveries SET state = :state, attempts = :attempts, next_attempt_at = now() + :delay, error = :error,"
                    " updated_at = now() WHERE consumer = :consumer AND event_id = :event_id"
                ),
                {
                    "state": "dead" if dead else "retry",
                    "attempts": attempts,
                    "delay": timedelta(seconds=delay),
                    "error": error,
                    "consumer": consumer,
                    "event_id": event_id,
                },
            )

    async def revive(self, consumer: str, events: AbstractSet[UUID] | None, limit: int) -> list[UUID]:
        """Make dead deliveries of `events`, or any (None), due again with all their attempts; at most `limit`. Those that are."""
        async with self._database.system() as connection:
            rows = await connection.execute(
                text(
                    "UPDATE deliveries d SET state = 'retry', attempts = 0, next_attempt_at = now(), updated_at = now()"
                    " FROM (SELECT event_id FROM deliveries WHERE consumer = :consumer AND state = 'dead'"
                    " AND (:all OR event_id = ANY(:ids)) ORDER BY event_id LIMIT :limit FOR UPDATE) chosen"
                    " WHERE d.consumer = :consumer AND d.event_id = chosen.event_id RETURNING d.event_id"
                ),
                {"consumer": consumer, "all": events is None, "ids": list(events or ()), "limit": limit},
            )
            return sorted(row.event_id for row in rows)

    async def dead(self, consumer: str, limit: int, *, skip: int = 0) -> list[DeadLetter]:
        """Dead letters, oldest event first."""
        async with self._database.system() as connection:
            # An event published twice may have had its effect after its first delivery was declared dead.
            rows = await connection.execute(
                text(
                    "SELECT envelope, attempts, error FROM deliveries d WHERE state = 'dead' AND consumer = :consumer AND NOT EXISTS"
                    " (SELECT 1 FROM inbox i WHERE i.consumer = d.consumer AND i.event_id = d.event_id) ORDER BY event_id"
                    " LIMIT :limit OFFSET :skip"
                ),
                {"consumer": consumer, "limit": limit, "skip": skip},
            )
            return [DeadLetter(consumer, from_bytes(bytes(row.envelope)), row.attempts, row.error) for row in rows]


async def purge_dead_letters(database: Database, older_than: timedelta, *, limit: int = 5000) -> int:
    """Delete at most `limit` dead deliveries and as many parked events older than `older_than`; returns how many went."""
    gone = 0
    async with database.system() as connection:
        for table, dead, age in (
            ("deliveries", "state = 'dead'", "updated_at"),
            ("outbox", "leased_until = 'infinity'", "created_at"),
        ):
            result = await connection.execute(
                # A parked event without a finite time has no age and stays until somebody looks at it.
                text(
                    f"DELETE FROM {table} WHERE ctid = ANY(ARRAY(SELECT ctid FROM {table}"  # noqa: S608 - constants
                    f" WHERE {dead} AND {age} < now() - :age LIMIT :limit FOR UPDATE SKIP LOCKED))"
                ),
                {"age": older_than, "limit": limit},
            )
            gone += result.rowcount
    return gone


def to_bytes(envelope: Envelope) -> bytes:
    """The envelope as CloudEvents JSON with `data_base64`."""
    return orjson.dumps(
        {
            "specversion": "1.0",
            "id": str(envelope.id),
            "source": envelope.source,
            "type": envelope.type,
            "time": envelope.time.isoformat(),
            "subject": envelope.subject,
            "tenantid": str(envelope.tenant_id) if envelope.tenant_id else "",
            "actor": envelope.actor,
            "traceparent": envelope.traceparent,
            "causationid": envelope.causation_id,
            "partitionkey": envelope.partition_key,
            "data_base64": base64.b64encode(envelope.data).decode(),
        }
    )


def from_bytes(raw: bytes) -> Envelope:
    """The inverse of `to_bytes`."""
    fields = orjson.loads(raw)
    return Envelope(
        id=UUID(fields["id"]),
        source=fields["source"],
        type=fields["type"],
        time=datetime.fromisoformat(fields["time"]),
        subject=fields["subject"],
        data=base64.b64decode(fields["data_base64"]),
        tenant_id=UUID(fields["tenantid"]) if fields["tenantid"] else None,
        actor=fields["actor"],
        traceparent=fields["traceparent"],
        causation_id=fields["causationid"],
        partition_key=fields["partitionkey"],
    )
