"""Facts for the audit trail, written in the transaction of the action they tell of; `auth` chains them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from wireroom_common.outbox import emit
from wireroom_common.rpc import current_client_address, current_request_id
from wireroom_protos.events.v1 import events_pb2


async def record(
    connection: AsyncConnection, action: str, *, tenant_id: UUID | None, subject: str, actor: str, **details: str
) -> None:
    """Write one fact of an action that is about to be committed; `details` hold no secret. Without a tenant: the installation's."""
    await emit(connection, _fact(action, details), tenant_id=tenant_id, subject=subject, actor=actor)


async def record_reading(
    connection: AsyncConnection, action: str, *, tenant_id: UUID, subject: str, actor: str, **details: str
) -> None:
    """Write that something was read; whoever repeats a request reads again."""
    await emit(connection, _fact(action, details), tenant_id=tenant_id, subject=subject, actor=actor, effect=False)


def _fact(action: str, details: Mapping[str, str]) -> events_pb2.AuditRecorded:
    return events_pb2.AuditRecorded(
        action=action,
        outcome="success",
        client_ip=current_client_address(),
        request_id=current_request_id(),
        details_json=json.dumps(details, sort_keys=True),
    )
