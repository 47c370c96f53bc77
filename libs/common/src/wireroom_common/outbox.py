"""The transactional outbox: an event leaves exactly when the change it tells of is committed."""

from __future__ import annotations

from uuid import UUID

from google.protobuf.message import Message
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from wireroom_common.bus.catalogue import event_type
from wireroom_common.idempotency import claim_effect
from wireroom_common.ids import new_id

_propagator = TraceContextTextMapPropagator()


async def emit(
    connection: AsyncConnection,
    payload: Message,
    *,
    tenant_id: UUID | None,
    subject: str,
    actor: str = "",
    causation_id: str = "",
    partition_key: str = "",
    effect: bool = True,
) -> UUID:
    """Write an event into the outbox of the caller's transaction; returns its id.

    The table is found by the connection's search path (the service's own schema). `subject` names what the event is about (an id);
    nothing is sent if the transaction does not commit. Delivery is concurrent and repeats: events of one subject may arrive in another
    order than they were written, so a consumer compares versions of the subject and never goes back. `partition_key` (by default the
    subject) only travels with the event as CloudEvents' `partitionkey`; no bus orders by it.

    If the call being served has an idempotency key, the first event claims it (`wireroom_common.idempotency`): CONFLICT if another call
    has claimed it before. `effect` False is for an event that tells of a failure, after which the request may be repeated.
    """
    if effect:
        await claim_effect(connection, tenant_id, subject)
    event_id = new_id()
    carrier: dict[str, str] = {}
    _propagator.inject(carrier)
    await connection.execute(
        text(
            "INSERT INTO outbox (id, tenant_id, type, subject, partition_key, actor, traceparent, causation_id, data)"
            " VALUES (:id, :tenant_id, :type, :subject, :partition_key, :actor, :traceparent, :causation_id, :data)"
        ),
        {
            "id": event_id,
            "tenant_id": tenant_id,
            "type": event_type(payload),
            "subject": subject,
            "partition_key": partition_key or subject,
            "actor": actor,
            "traceparent": carrier.get("traceparent", ""),
            "causation_id": causation_id,
            "data": payload.SerializeToString(),
        },
    )
    return event_id
