"""The event log: appended to by one transaction at a time, read from a cursor."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from prometheus_client import CollectorRegistry, Counter
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from wireroom_common.bus import Catalogue, Envelope
from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_monitoring.counters import increments
from wireroom_monitoring.scopes import INSTALLATION
from wireroom_monitoring.security import Addition, add
from wireroom_monitoring.security_facts import security_facts

# One statement, hence one round trip under the lock. The row of `log_head` stays locked until the commit: offsets become visible in
# their order, so a reader's cursor never passes one that is still to come. The generation is read with that lock, not before it.
# A rolled back append takes its offset back with it.
_APPEND = text(
    """
    WITH fresh AS (
        INSERT INTO event_ids (event_id) VALUES (:event_id) ON CONFLICT DO NOTHING RETURNING event_id
    ), head AS (
        UPDATE log_head SET last_offset = last_offset + 1 FROM fresh RETURNING log_head.last_offset, log_head.generation
    ), logged AS (
        INSERT INTO event_log
            (log_offset, event_id, tenant_id, type, source, subject, actor, traceparent, causation_id, occurred_at, data)
        SELECT last_offset, CAST(:event_id AS uuid), CAST(:tenant_id AS uuid), :type, :source, :subject, :actor, :traceparent,
            :causation_id, CAST(:occurred_at AS timestamptz), CAST(:data AS bytea)
        FROM head
    ), counted AS (
        INSERT INTO stats (tenant_id, generation, counter, value, last_offset)
        SELECT CAST(:scope AS uuid), head.generation, added.counter, added.value, head.last_offset
        FROM head, unnest(CAST(:counters AS text[]), CAST(:values AS bigint[])) AS added (counter, value)
        ON CONFLICT (tenant_id, generation, counter)
        DO UPDATE SET value = stats.value + excluded.value, last_offset = excluded.last_offset
    )
    SELECT generation FROM head
    """
)


class Appender:
    """The handler of `monitoring.log`."""

    def __init__(self, catalogue: Catalogue, registry: CollectorRegistry) -> None:
        self._catalogue = catalogue
        self._appended = Counter(
            "wireroom_monitoring_events_appended_total",
            "Events written to the log, by type (of the catalogue).",
            ["type"],
            registry=registry,
        )

    async def append(self, connection: AsyncConnection, envelope: Envelope) -> None:
        """Append the event and count it, in the caller's transaction; an event that the log has is left alone.

        INVALID for a type this version does not know; DecodeError for a payload that is not of its type.
        """
        spec = self._catalogue.events.get(envelope.type)
        if spec is None:
            raise WireroomError(
                ErrorKind.INVALID,
                "event_type_unknown",
                f"The event type '{envelope.type[:100]}' is not in this version's catalogue; a newer version can log it.",
            )
        payload = envelope.payload(spec.payload)
        added = increments(envelope.type, payload)
        scope = envelope.tenant_id or INSTALLATION
        generation = await connection.scalar(
            _APPEND,
            {
                "event_id": envelope.id,
                "tenant_id": envelope.tenant_id,
                "type": envelope.type,
                "source": envelope.source,
                "subject": envelope.subject,
                "actor": envelope.actor,
                "traceparent": envelope.traceparent,
                "causation_id": envelope.causation_id,
                "occurred_at": envelope.time,
                "data": envelope.data,
                "scope": scope,
                "counters": list(added),
                "values": list(added.values()),
            },
        )
        if generation is None:
            return
        self._appended.labels(envelope.type).inc()
        if found := security_facts(payload):
            await add(connection, generation, [Addition(scope, envelope.time, found)])


@dataclass(frozen=True)
class Entry:
    """One event of the log."""

    offset: int
    id: UUID
    tenant_id: UUID | None
    type: str
    source: str
    subject: str
    time: datetime
    data: bytes


async def read_after(connection: AsyncConnection, offset: int, *, limit: int, event_type: str = "") -> list[Entry]:
    """At most `limit` events after `offset`, oldest first: the tenant's own in a tenant's transaction, all in the system's."""
    rows = await connection.execute(
        text(
            "SELECT log_offset, event_id, tenant_id, type, source, subject, occurred_at, data FROM event_log"
            " WHERE log_offset > :offset AND (:type = '' OR type = :type) ORDER BY log_offset LIMIT :limit"
        ),
        {"offset": offset, "limit": limit, "type": event_type},
    )
    return [
        Entry(row.log_offset, row.event_id, row.tenant_id, row.type, row.source, row.subject, row.occurred_at, bytes(row.data))
        for row in rows
    ]
