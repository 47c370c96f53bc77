"""The consumer `monitoring.erasure`: events that tell of an erased user or tenant lose what they tell.

Offsets, types, times and tenants stay, and so do the counts that were made of them. Events of the erasure itself stay whole: they prove it,
and name their subject by its id alone.
"""

from __future__ import annotations

from typing import Any
from uuid import UUID

from sqlalchemy import text
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
# The log of a tenant is read through once.
_LONGEST = "10min"
_OF_USER = " AND (actor = :user OR subject = :user OR position(convert_to(:user, 'UTF8') IN data) > 0)"
_COUNTS_OF_TENANT = ("stats", "route_hours", "security_hours", "security_subjects")


def erasure(database: Database) -> Subscription:
    """As the system role: the log belongs to no single tenant."""
    return Subscription(CONSUMER, work=handle, database=database, as_system=True)


async def handle(connection: AsyncConnection, envelope: Envelope) -> None:
    """At the request, and once more when every service has answered: events that were on their way then are in the log now."""
    if envelope.tenant_id is None:
        msg = f"The event {envelope.id} ({envelope.type}) has no tenant."
        raise ValueError(msg)
    asked = envelope.type == _REQUESTED
    payload: Any = envelope.payload(events_pb2.PrivacyErasureRequested if asked else events_pb2.PrivacyErasureCompleted)
    user_id = UUID(payload.user_id) if payload.user_id else None
    counts = await _blank(connection, envelope.tenant_id, user_id)
    if asked:
        done = events_pb2.PrivacyErasurePartDone(erasure_id=payload.erasure_id, part="monitoring", counts=counts)
        await emit(connection, done, tenant_id=envelope.tenant_id, subject=payload.erasure_id)


async def _blank(connection: AsyncConnection, tenant_id: UUID, user_id: UUID | None) -> dict[str, int]:
    values = {"tenant_id": tenant_id, "user": str(user_id), "kept": _KEPT}
    await connection.execute(text("SELECT set_config('statement_timeout', :longest, true)"), {"longest": _LONGEST})
    blanked = await connection.execute(
        text(
            "UPDATE event_log SET subject = '', actor = '', traceparent = '', data = ''"  # noqa: S608 - constants
            " WHERE tenant_id = :tenant_id AND type <> ALL(CAST(:kept AS text[]))"
            f" AND (subject <> '' OR actor <> '' OR data <> ''){_OF_USER if user_id else ''}"
        ),
        values,
    )
    counts = {"events": blanked.rowcount}
    if user_id is None:
        for table in _COUNTS_OF_TENANT:
            gone = await connection.execute(text(f"DELETE FROM {table} WHERE tenant_id = :tenant_id"), values)  # noqa: S608 - constants
            counts[table] = gone.rowcount
    return counts
