"""The consumer `monitoring.erasure`: events that tell of an erased user or tenant lose what they tell.

Offsets, types, times and tenants stay, and so do the counts that were made of them. Events of the erasure itself stay whole: they prove it,
and name their subject by its id alone.
"""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from wireroom_common.bus import Envelope, Subscription, event_type
from wireroom_common.db import Database
from wireroom_common.outbox import emit
from wireroom_protos.events.v1 import events_pb2

CONSUMER = "monitoring.erasure"
_REQUESTED = event_type(events_pb2.PrivacyErasureRequested())
_KEPT = [
    event_type(kind())
    for kind in (
        events_pb2.AuthUserDeleted,
        events_pb2.PrivacyErasureRequested,
        events_pb2.PrivacyErasurePartDone,
        events_pb2.PrivacyErasureCompleted,
    )
]
_OF_USER = " AND (actor = :user OR subject = :user OR position(convert_to(:user, 'UTF8') IN data) > 0)"
_COUNTS_OF_TENANT = ("stats", "route_hours", "security_hours", "security_subjects")
# Every event up to it is in the log.
_HEAD = "(SELECT last_offset FROM log_head)"


def erasure(database: Database) -> Subscription:
    """As the system role: the log belongs to no single tenant."""
    return Subscription(CONSUMER, work=handle, database=database, as_system=True)


async def handle(connection: AsyncConnection, envelope: Envelope) -> None:
    """Note what is to be blanked: all there is at the request, and once more what was on its way then when every service has answered."""
    if envelope.tenant_id is None:
        msg = f"The event {envelope.id} ({envelope.type}) has no tenant."
        raise ValueError(msg)
    asked = envelope.type == _REQUESTED
    payload: Any = envelope.payload(events_pb2.PrivacyErasureRequested if asked else events_pb2.PrivacyErasureCompleted)
    values = {
        "tenant_id": envelope.tenant_id,
        "id": UUID(payload.erasure_id),
        "user_id": UUID(payload.user_id) if payload.user_id else None,
        "asked": asked,
    }
    row = (
        await connection.execute(
            text(
                "INSERT INTO erasures AS e (tenant_id, id, user_id, blank_until, answered)"
                f" SELECT :tenant_id, :id, :user_id, {_HEAD}, NOT :asked ON CONFLICT (tenant_id, id)"
                f" DO UPDATE SET blank_until = CASE WHEN :asked THEN e.blank_until ELSE {_HEAD} END RETURNING *"
            ),
            values,
        )
    ).one()
    if row.user_id is None:
        await _forget_counts(connection, row)
    if asked and row.answered:
        await _answer(connection, row)


class BlankEvents:
    """Does what was noted, in transactions of at most `batch` events each. Safe on several replicas."""

    def __init__(self, database: Database, *, batch: int = 5_000) -> None:
        self._database = database
        self._batch = batch

    async def run(self) -> None:
        """All of it."""
        while await self._step():
            pass

    async def _step(self) -> bool:
        async with self._database.system() as connection:
            row = (
                await connection.execute(
                    text(
                        "SELECT * FROM erasures WHERE blanked < blank_until OR NOT answered"
                        " ORDER BY requested_at LIMIT 1 FOR UPDATE SKIP LOCKED"
                    )
                )
            ).one_or_none()
            if row is None:
                return False
            values = {"tenant_id": row.tenant_id, "id": row.id, "after": row.blanked, "until": row.blank_until}
            through: int = (
                await connection.execute(
                    text(
                        "SELECT CASE WHEN count(*) = :batch THEN max(log_offset) ELSE :until END FROM (SELECT log_offset FROM event_log"
                        " WHERE tenant_id = :tenant_id AND log_offset > :after AND log_offset <= :until"
                        " ORDER BY log_offset LIMIT :batch) AS next"
                    ),
                    {**values, "batch": self._batch},
                )
            ).scalar_one()
            blanked = await connection.execute(
                text(
                    "UPDATE event_log SET subject = '', actor = '', traceparent = '', data = ''"  # noqa: S608 - constants
                    " WHERE tenant_id = :tenant_id AND log_offset > :after AND log_offset <= :through"
                    " AND type <> ALL(CAST(:kept AS text[]))"
                    f" AND (subject <> '' OR actor <> '' OR data <> ''){_OF_USER if row.user_id else ''}"
                ),
                {**values, "through": through, "user": str(row.user_id), "kept": _KEPT},
            )
            changed = (
                await connection.execute(
                    text(
                        "UPDATE erasures SET blanked = :through, events = events + :events, answered = answered OR :through >= blank_until"
                        " WHERE tenant_id = :tenant_id AND id = :id RETURNING *"
                    ),
                    {**values, "through": through, "events": blanked.rowcount},
                )
            ).one()
            if changed.answered and not row.answered:
                await _answer(connection, changed)
        return True


async def _forget_counts(connection: AsyncConnection, row: Row[Any]) -> None:
    """Of a tenant; what went is told with the answer."""
    counts = dict(row.counts)
    for table in _COUNTS_OF_TENANT:
        gone = await connection.execute(text(f"DELETE FROM {table} WHERE tenant_id = :tenant_id"), {"tenant_id": row.tenant_id})  # noqa: S608 - constants
        counts[table] = counts.get(table, 0) + gone.rowcount
    if not row.answered:
        await connection.execute(
            text("UPDATE erasures SET counts = CAST(:counts AS jsonb) WHERE tenant_id = :tenant_id AND id = :id"),
            {"tenant_id": row.tenant_id, "id": row.id, "counts": json.dumps(counts)},
        )


async def _answer(connection: AsyncConnection, row: Row[Any]) -> None:
    done = events_pb2.PrivacyErasurePartDone(
        erasure_id=str(row.id), part="monitoring", counts={"events": row.events, **row.counts}
    )
    await emit(connection, done, tenant_id=row.tenant_id, subject=str(row.id))
