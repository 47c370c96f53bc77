"""Facts for the audit trail, written in the transaction of the action they tell of."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from wireroom_common.outbox import emit
from wireroom_common.rpc.context import current_client_address, current_request_id
from wireroom_protos.events.v1 import events_pb2


async def record(
    connection: AsyncConnection,
    action: str,
    *,
    tenant_id: UUID | None,
    subject: str,
    actor: str,
    outcome: str = "success",
    details: Mapping[str, Any] | None = None,
) -> None:
    """Write one fact; it is chained when its event is delivered.

    `action` is `noun.past_tense`; `outcome` "success", "failure" or "denied"; `details` must be JSON and hold no secret.
    Without a tenant it belongs to the installation's own chain.
    """
    await emit(
        connection,
        events_pb2.AuditRecorded(
            action=action,
            outcome=outcome,
            client_ip=current_client_address(),
            request_id=current_request_id(),
            details_json=json.dumps(details or {}, sort_keys=True),
        ),
        tenant_id=tenant_id,
        subject=subject,
        actor=actor,
        effect=outcome == "success",
    )
