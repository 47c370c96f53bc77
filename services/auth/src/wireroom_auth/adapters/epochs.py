"""Epochs: the number in each access token below which it is void. Raised in the transaction of the change that voids it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from wireroom_common.outbox import emit
from wireroom_protos.events.v1 import events_pb2

# Of these the refresh tokens end, too; after a change of roles the next refresh brings a token with the new ones.
_ENDS_SESSIONS: Final = frozenset({"logout_all", "password", "disabled", "deleted"})


@dataclass(frozen=True)
class Raised:
    """What a raise did."""

    epoch: int
    sessions_ended: int = 0


async def raise_epoch(
    connection: AsyncConnection,
    tenant_id: UUID,
    user_id: UUID,
    reason: str,
    now: datetime,
    *,
    actor: str = "",
    keep_session: UUID | None = None,
) -> Raised | None:
    """Void all access tokens that the user holds, on the caller's tenant connection; None if there is no such user.

    `reason`: "logout_all", "password", "roles", "disabled" or "deleted". All but "roles" end the user's sessions as well, except
    `keep_session`, whose access tokens are void nevertheless. Call it before a user is deleted. `actor` is the user by default.
    """
    raised = await connection.execute(
        text("UPDATE users SET epoch = epoch + 1 WHERE tenant_id = :tenant_id AND id = :id RETURNING epoch"),
        {"tenant_id": tenant_id, "id": user_id},
    )
    epoch = raised.scalar_one_or_none()
    if epoch is None:
        return None
    ended = 0
    if reason in _ENDS_SESSIONS:
        ended = await _end_sessions(connection, tenant_id, user_id, reason, now, keep=keep_session, actor=actor)
    await _tell(connection, tenant_id, user_id, epoch, reason=reason, now=now, actor=actor or str(user_id))
    return Raised(epoch, ended)


async def raise_tenant_epoch(connection: AsyncConnection, tenant_id: UUID, now: datetime, *, actor: str) -> Raised | None:
    """Void all access tokens of the tenant's users, on a connection of that tenant; None if there is no such tenant.

    Sessions stay: what a disabled tenant's refresh tokens are worth is decided when they are presented.
    """
    raised = await connection.execute(
        text("UPDATE tenants SET epoch = epoch + 1 WHERE tenant_id = :tenant_id RETURNING epoch"), {"tenant_id": tenant_id}
    )
    epoch = raised.scalar_one_or_none()
    if epoch is None:
        return None
    await _tell(connection, tenant_id, None, epoch, reason="tenant", now=now, actor=actor)
    return Raised(epoch)


async def _end_sessions(
    connection: AsyncConnection, tenant_id: UUID, user_id: UUID, reason: str, now: datetime, *, keep: UUID | None, actor: str
) -> int:
    ended = await connection.execute(
        text(
            "UPDATE sessions SET revoked_at = :now, revoked_because = :reason WHERE tenant_id = :tenant_id AND user_id = :user_id"
            " AND revoked_at IS NULL AND expires_at > :now AND id IS DISTINCT FROM CAST(:keep AS uuid) RETURNING id"
        ),
        {"tenant_id": tenant_id, "user_id": user_id, "now": now, "reason": reason, "keep": keep},
    )
    ids = [row.id for row in ended]
    for session_id in ids:
        event = events_pb2.AuthSessionRevoked(user_id=str(user_id), session_id=str(session_id), reason=reason)
        await emit(connection, event, tenant_id=tenant_id, subject=str(session_id), actor=actor or str(user_id))
    return len(ids)


async def _tell(
    connection: AsyncConnection, tenant_id: UUID, user_id: UUID | None, epoch: int, *, reason: str, now: datetime, actor: str
) -> None:
    subject = user_id or tenant_id
    await connection.execute(
        text(
            "INSERT INTO epoch_raises (tenant_id, subject_id, epoch, raised_at) VALUES (:tenant_id, :subject, :epoch, :now)"
            " ON CONFLICT (tenant_id, subject_id) DO UPDATE SET"
            " epoch = greatest(epoch_raises.epoch, excluded.epoch), raised_at = greatest(epoch_raises.raised_at, excluded.raised_at)"
        ),
        {"tenant_id": tenant_id, "subject": subject, "epoch": epoch, "now": now},
    )
    event = events_pb2.AuthEpochRaised(
        tenant_id=str(tenant_id), user_id=str(user_id) if user_id else "", epoch=epoch, reason=reason
    )
    await emit(connection, event, tenant_id=tenant_id, subject=str(subject), actor=actor)
