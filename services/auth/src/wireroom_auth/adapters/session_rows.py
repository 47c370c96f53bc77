"""What several changes of sessions have in common, on the caller's tenant connection."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from wireroom_auth.adapters import audit_trail
from wireroom_auth.domain.credentials import digest
from wireroom_auth.domain.sessions import Session
from wireroom_common.outbox import emit
from wireroom_protos.events.v1 import events_pb2


def session_of(row: Row[Any]) -> Session:
    """The session in a row that was selected with `s.*`."""
    return Session(row.id, row.tenant_id, row.user_id, row.created_at, row.expires_at, row.revoked_at)


async def add_token(connection: AsyncConnection, session: Session, counter: int, token: str) -> None:
    """Store the refresh token of a session by its digest, as its newest."""
    place = {"tenant_id": session.tenant_id, "session_id": session.id, "counter": counter}
    await connection.execute(
        text("UPDATE sessions SET latest_counter = :counter WHERE tenant_id = :tenant_id AND id = :session_id"), place
    )
    await connection.execute(
        text(
            "INSERT INTO refresh_tokens (tenant_id, session_id, counter, token_hash)"
            " VALUES (:tenant_id, :session_id, :counter, :hash)"
        ),
        {**place, "hash": digest(token)},
    )


async def end_session(
    connection: AsyncConnection, tenant_id: UUID, user_id: UUID, session_id: UUID, *, reason: str, now: datetime
) -> bool:
    """End a session and tell of it; False if there is none of this user or it has ended."""
    revoked = await connection.execute(
        text(
            "UPDATE sessions SET revoked_at = :now, revoked_because = :reason"
            " WHERE tenant_id = :tenant_id AND id = :id AND user_id = :user_id AND revoked_at IS NULL RETURNING id"
        ),
        {"tenant_id": tenant_id, "id": session_id, "user_id": user_id, "now": now, "reason": reason},
    )
    if revoked.first() is None:
        return False
    event = events_pb2.AuthSessionRevoked(user_id=str(user_id), session_id=str(session_id), reason=reason)
    await emit(connection, event, tenant_id=tenant_id, subject=str(session_id), actor=str(user_id))
    await audit_trail.record(
        connection,
        "session.revoked",
        tenant_id=tenant_id,
        subject=str(session_id),
        actor=str(user_id),
        details={"reason": reason},
    )
    return True
