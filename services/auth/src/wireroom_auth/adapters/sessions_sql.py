"""Sessions and refresh tokens in PostgreSQL."""

from __future__ import annotations

from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from wireroom_auth.adapters.accounts_sql import USER_COLUMNS, user_of
from wireroom_auth.adapters.encryption import derive_key, seal, unseal
from wireroom_auth.domain.credentials import digest, new_refresh_token
from wireroom_auth.domain.identity import Account
from wireroom_auth.domain.sessions import PresentedToken, Revocation, Rotation, RotationResult, Session, decide_rotation
from wireroom_auth.ports.sessions import Client
from wireroom_common.db import Database
from wireroom_common.outbox import emit
from wireroom_protos.events.v1 import events_pb2

_SUCCESSOR_PURPOSE = "wireroom/auth/refresh-successor/v1"


class SqlSessions:
    """All changes of one session queue on its row lock."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def open(self, account: Account, session: Session, refresh_token: str, client: Client) -> bool:
        async with self._database.tenant(session.tenant_id) as connection:
            unchanged = await connection.execute(
                text(
                    "SELECT 1 FROM users WHERE tenant_id = :tenant_id AND id = :id AND password_hash = :hash AND disabled_at IS NULL"
                    " FOR SHARE"
                ),
                {"tenant_id": session.tenant_id, "id": session.user_id, "hash": account.password_hash},
            )
            if unchanged.first() is None:
                return False
            await connection.execute(
                text(
                    "INSERT INTO sessions (tenant_id, id, user_id, created_at, expires_at)"
                    " VALUES (:tenant_id, :id, :user_id, :created_at, :expires_at)"
                ),
                {
                    "tenant_id": session.tenant_id,
                    "id": session.id,
                    "user_id": session.user_id,
                    "created_at": session.created_at,
                    "expires_at": session.expires_at,
                },
            )
            await _add_token(connection, session, 0, refresh_token)
            event = events_pb2.AuthUserLoginSucceeded(
                user_id=str(session.user_id),
                session_id=str(session.id),
                ip=client.ip,
                user_agent_sha256=client.user_agent_sha256,
            )
            await emit(connection, event, tenant_id=session.tenant_id, subject=str(session.user_id), actor=str(session.user_id))
        return True

    async def record_failed_login(self, account: Account | None, client: Client, reason: str) -> None:
        event = events_pb2.AuthUserLoginFailed(
            user_id=str(account.user.id) if account else "",
            ip=client.ip,
            user_agent_sha256=client.user_agent_sha256,
            reason=reason,
        )
        # As the system role in every case: a failure of an unknown user takes the same steps as one of a known user.
        async with self._database.system() as connection:
            await emit(
                connection,
                event,
                tenant_id=account.user.tenant_id if account else None,
                subject=str(account.user.id) if account else "unknown",
            )

    async def rotate(self, presented: str, *, now: datetime, grace: timedelta) -> RotationResult | None:
        hashed = digest(presented)
        async with self._database.system() as connection:
            found = (
                await connection.execute(
                    text("SELECT tenant_id, session_id FROM refresh_tokens WHERE token_hash = :hash"), {"hash": hashed}
                )
            ).first()
        if found is None:
            return None
        async with self._database.tenant(found.tenant_id) as connection:
            row = (
                await connection.execute(
                    text(
                        f"SELECT s.*, {USER_COLUMNS} FROM sessions s JOIN users u ON u.tenant_id = s.tenant_id AND u.id = s.user_id"  # noqa: S608  constant
                        " WHERE s.tenant_id = :tenant_id AND s.id = :session_id FOR UPDATE OF s"
                    ),
                    {"tenant_id": found.tenant_id, "session_id": found.session_id},
                )
            ).first()
            if row is None:
                return None
            session = Session(row.id, row.tenant_id, row.user_id, row.created_at, row.expires_at, row.revoked_at)
            user = user_of(row)
            # Read after the lock was taken: a parallel presentation may just have spent it.
            token = (
                await connection.execute(
                    text(
                        "SELECT counter, used_at, successor FROM refresh_tokens WHERE tenant_id = :tenant_id AND token_hash = :hash"
                    ),
                    {"tenant_id": session.tenant_id, "hash": hashed},
                )
            ).one()
            rotation = decide_rotation(
                session,
                PresentedToken(token.counter, row.latest_counter, token.used_at),
                user_disabled=user.disabled_at is not None,
                now=now,
                grace=grace,
            )
            refresh_token = ""
            if rotation is Rotation.SUCCESSOR:
                refresh_token = await _spend(connection, session, token.counter, presented, now)
            elif rotation is Rotation.SAME_SUCCESSOR:
                key = derive_key(presented.encode(), _SUCCESSOR_PURPOSE)
                refresh_token = unseal(key, token.successor, bound_to=hashed).decode()
            elif rotation is Rotation.REUSED:
                event = events_pb2.AuthRefreshReuseDetected(user_id=str(session.user_id), session_id=str(session.id))
                await emit(connection, event, tenant_id=session.tenant_id, subject=str(session.id))
                await _revoke(connection, session.tenant_id, session.user_id, session.id, reason="refresh_reuse", now=now)
        return RotationResult(rotation, session, user, refresh_token)

    async def revoke(self, tenant_id: UUID, user_id: UUID, session_id: UUID, *, reason: str, now: datetime) -> None:
        async with self._database.tenant(tenant_id) as connection:
            await _revoke(connection, tenant_id, user_id, session_id, reason=reason, now=now)

    async def revocations(self, since: datetime, *, limit: int) -> list[Revocation]:
        async with self._database.system() as connection:
            rows = await connection.execute(
                text(
                    "SELECT id, revoked_at FROM sessions WHERE revoked_at >= :since"
                    " UNION ALL SELECT id, revoked_at FROM api_keys WHERE revoked_at >= :since"
                    " ORDER BY revoked_at DESC LIMIT :limit"
                ),
                {"since": since, "limit": limit},
            )
            return [Revocation(row.id, row.revoked_at) for row in rows]


async def _add_token(connection: AsyncConnection, session: Session, counter: int, token: str) -> None:
    await connection.execute(
        text(
            "INSERT INTO refresh_tokens (tenant_id, session_id, counter, token_hash)"
            " VALUES (:tenant_id, :session_id, :counter, :hash)"
        ),
        {"tenant_id": session.tenant_id, "session_id": session.id, "counter": counter, "hash": digest(token)},
    )


async def _spend(connection: AsyncConnection, session: Session, counter: int, presented: str, now: datetime) -> str:
    """Swap the presented token for a successor, which only the presented token itself can decrypt."""
    successor = new_refresh_token()
    sealed = seal(derive_key(presented.encode(), _SUCCESSOR_PURPOSE), successor.encode(), bound_to=digest(presented))
    place = {"tenant_id": session.tenant_id, "session_id": session.id, "counter": counter}
    await connection.execute(
        text(
            "UPDATE refresh_tokens SET used_at = :now, successor = :sealed"
            " WHERE tenant_id = :tenant_id AND session_id = :session_id AND counter = :counter"
        ),
        {**place, "now": now, "sealed": sealed},
    )
    await connection.execute(
        text("UPDATE sessions SET latest_counter = :counter + 1 WHERE tenant_id = :tenant_id AND id = :session_id"), place
    )
    await _add_token(connection, session, counter + 1, successor)
    return successor


async def _revoke(
    connection: AsyncConnection, tenant_id: UUID, user_id: UUID, session_id: UUID, *, reason: str, now: datetime
) -> None:
    revoked = await connection.execute(
        text(
            "UPDATE sessions SET revoked_at = :now, revoked_because = :reason"
            " WHERE tenant_id = :tenant_id AND id = :id AND user_id = :user_id AND revoked_at IS NULL RETURNING id"
        ),
        {"tenant_id": tenant_id, "id": session_id, "user_id": user_id, "now": now, "reason": reason},
    )
    if revoked.first() is not None:
        event = events_pb2.AuthSessionRevoked(user_id=str(user_id), session_id=str(session_id), reason=reason)
        await emit(connection, event, tenant_id=tenant_id, subject=str(session_id), actor=str(user_id))
