"""Sessions and refresh tokens in PostgreSQL."""

from __future__ import annotations

from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from wireroom_auth.adapters import audit_trail
from wireroom_auth.adapters.accounts_sql import USER_COLUMNS, user_of
from wireroom_auth.adapters.encryption import derive_key, seal, unseal
from wireroom_auth.adapters.epochs import raise_epoch
from wireroom_auth.adapters.session_rows import add_token, end_session, session_of
from wireroom_auth.domain.credentials import digest, hex_digest_or_empty, new_refresh_token
from wireroom_auth.domain.identity import Account, User
from wireroom_auth.domain.sessions import (
    PresentedToken,
    RaisedEpoch,
    Revocation,
    Rotation,
    RotationResult,
    Session,
    decide_rotation,
)
from wireroom_auth.ports.sessions import Client, SessionDetails
from wireroom_common.db import Database
from wireroom_common.outbox import emit
from wireroom_protos.events.v1 import events_pb2

# More than anybody's devices; the oldest ends when one is opened beyond it.
MAX_LIVE_SESSIONS = 100
_SUCCESSOR_PURPOSE = "wireroom/auth/refresh-successor/v1"


class SqlSessions:
    """All changes of one session queue on its row lock."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def open(
        self, proven: Account | User, session: Session, refresh_token: str, client: Client, methods: tuple[str, ...]
    ) -> User | None:
        proof = {
            "tenant_id": session.tenant_id,
            "id": session.user_id,
            "hash": proven.password_hash if isinstance(proven, Account) else None,
            "epoch": None if isinstance(proven, Account) else proven.epoch,
        }
        async with self._database.tenant(session.tenant_id) as connection:
            # The lock holds off whoever raises the epoch until this session can be seen, and ended with the others.
            unchanged = await connection.execute(
                text(
                    "SELECT 1 FROM users WHERE tenant_id = :tenant_id AND id = :id AND disabled_at IS NULL"
                    " AND CASE WHEN CAST(:epoch AS integer) IS NULL THEN password_hash = :hash ELSE epoch = :epoch END FOR SHARE"
                ),
                proof,
            )
            if unchanged.first() is None:
                return None
            row = (
                await connection.execute(
                    text(f"SELECT {USER_COLUMNS} FROM users u WHERE u.tenant_id = :tenant_id AND u.id = :id"),  # noqa: S608  constant
                    proof,
                )
            ).one()
            user = user_of(row)
            if user.disabled_at is not None:
                return None
            await connection.execute(
                text(
                    "INSERT INTO sessions"
                    " (tenant_id, id, user_id, created_at, expires_at, last_used_at, client_ip, user_agent, methods)"
                    " VALUES (:tenant_id, :id, :user_id, :created_at, :expires_at, :created_at, :client_ip, :user_agent, :methods)"
                ),
                {
                    "tenant_id": session.tenant_id,
                    "id": session.id,
                    "user_id": session.user_id,
                    "created_at": session.created_at,
                    "expires_at": session.expires_at,
                    "client_ip": client.ip,
                    "user_agent": client.user_agent,
                    "methods": list(methods),
                },
            )
            await add_token(connection, session, 0, refresh_token)
            await _end_oldest(connection, session)
            event = events_pb2.AuthUserLoginSucceeded(
                user_id=str(session.user_id),
                session_id=str(session.id),
                ip=client.ip,
                user_agent_sha256=hex_digest_or_empty(client.user_agent),
            )
            await emit(connection, event, tenant_id=session.tenant_id, subject=str(session.user_id), actor=str(session.user_id))
            await audit_trail.record(
                connection,
                "login.succeeded",
                tenant_id=session.tenant_id,
                subject=str(session.user_id),
                actor=str(session.user_id),
                details={"session_id": str(session.id), "methods": list(methods)},
            )
        return user

    async def record_failed_login(self, account: Account | None, client: Client, reason: str) -> None:
        event = events_pb2.AuthUserLoginFailed(
            user_id=str(account.user.id) if account else "",
            ip=client.ip,
            user_agent_sha256=hex_digest_or_empty(client.user_agent),
            reason=reason,
        )
        tenant_id = account.user.tenant_id if account else None
        subject = str(account.user.id) if account else "unknown"
        # As the system role in every case: a failure of an unknown user takes the same steps as one of a known user.
        async with self._database.system() as connection:
            await emit(connection, event, tenant_id=tenant_id, subject=subject, effect=False)
            await audit_trail.record(
                connection,
                "login.failed",
                tenant_id=tenant_id,
                subject=subject,
                actor="",
                outcome="failure",
                details={"reason": reason},
            )

    async def rotate(self, presented: str, *, grace: timedelta, now: datetime, client_ip: str = "") -> RotationResult | None:
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
            session, user = session_of(row), user_of(row)
            # Read after the lock was taken: a parallel presentation may just have spent it.
            token = (
                await connection.execute(
                    text(
                        "SELECT counter, used_at, successor, clock_timestamp() AS now FROM refresh_tokens"
                        " WHERE tenant_id = :tenant_id AND token_hash = :hash"
                    ),
                    {"tenant_id": session.tenant_id, "hash": hashed},
                )
            ).one()
            rotation = decide_rotation(
                session,
                PresentedToken(token.counter, row.latest_counter, token.used_at, has_successor=token.successor is not None),
                user_disabled=user.disabled_at is not None,
                now=token.now,
                grace=grace,
                ended=now >= session.expires_at,
            )
            refresh_token = ""
            if rotation is Rotation.SUCCESSOR:
                refresh_token = await _spend(connection, session, token.counter, presented, now=now, client_ip=client_ip)
            elif rotation is Rotation.SAME_SUCCESSOR:
                key = derive_key(presented.encode(), _SUCCESSOR_PURPOSE)
                refresh_token = unseal(key, token.successor, bound_to=hashed).decode()
            elif rotation is Rotation.REUSED:
                await _end_family(connection, session, now=now, client_ip=client_ip)
        return RotationResult(rotation, session, user, refresh_token)

    async def page(
        self, tenant_id: UUID, user_id: UUID, *, before: UUID | None, now: datetime, limit: int
    ) -> list[SessionDetails]:
        async with self._database.tenant(tenant_id) as connection:
            rows = await connection.execute(
                text(
                    "SELECT s.* FROM sessions s WHERE s.tenant_id = :tenant_id AND s.user_id = :user_id"
                    " AND s.revoked_at IS NULL AND s.expires_at > :now AND (CAST(:before AS uuid) IS NULL OR s.id < :before)"
                    " ORDER BY s.id DESC LIMIT :limit"
                ),
                {"tenant_id": tenant_id, "user_id": user_id, "now": now, "before": before, "limit": limit},
            )
            return [
                SessionDetails(
                    session_of(row), row.last_used_at or row.created_at, Client(row.client_ip, row.user_agent), tuple(row.methods)
                )
                for row in rows
            ]

    async def revoke(self, tenant_id: UUID, user_id: UUID, session_id: UUID, *, reason: str, now: datetime) -> bool:
        async with self._database.tenant(tenant_id) as connection:
            return await end_session(connection, tenant_id, user_id, session_id, reason=reason, now=now)

    async def revoke_all(self, tenant_id: UUID, user_id: UUID, *, now: datetime) -> int:
        async with self._database.tenant(tenant_id) as connection:
            raised = await raise_epoch(connection, tenant_id, user_id, "logout_all", now)
            if raised is None:
                return 0
            await audit_trail.record(
                connection,
                "session.all_revoked",
                tenant_id=tenant_id,
                subject=str(user_id),
                actor=str(user_id),
                details={"sessions": raised.sessions_ended},
            )
            return raised.sessions_ended

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

    async def raised_epochs(self, since: datetime, *, limit: int) -> list[RaisedEpoch]:
        async with self._database.system() as connection:
            rows = await connection.execute(
                text(
                    "SELECT tenant_id, nullif(subject_id, tenant_id) AS user_id, epoch, raised_at FROM epoch_raises"
                    " WHERE raised_at >= :since ORDER BY raised_at DESC LIMIT :limit"
                ),
                {"since": since, "limit": limit},
            )
            return [RaisedEpoch(row.tenant_id, row.user_id, row.epoch, row.raised_at) for row in rows]


async def _spend(
    connection: AsyncConnection, session: Session, counter: int, presented: str, *, now: datetime, client_ip: str
) -> str:
    """Swap the presented token for a successor, which only the presented token itself can decrypt."""
    successor = new_refresh_token()
    sealed = seal(derive_key(presented.encode(), _SUCCESSOR_PURPOSE), successor.encode(), bound_to=digest(presented))
    place = {"tenant_id": session.tenant_id, "session_id": session.id, "counter": counter}
    await connection.execute(
        text(
            "UPDATE refresh_tokens SET used_at = clock_timestamp(), successor = :sealed"
            " WHERE tenant_id = :tenant_id AND session_id = :session_id AND counter = :counter"
        ),
        {**place, "sealed": sealed},
    )
    # Once per rotation, and so about once per access token: as often as a use can be noticed here.
    await connection.execute(
        text(
            "UPDATE sessions SET last_used_at = :now, client_ip = coalesce(nullif(:client_ip, ''), client_ip)"
            " WHERE tenant_id = :tenant_id AND id = :session_id"
        ),
        {**place, "now": now, "client_ip": client_ip},
    )
    await add_token(connection, session, counter + 1, successor)
    return successor


async def _end_family(connection: AsyncConnection, session: Session, *, now: datetime, client_ip: str) -> None:
    event = events_pb2.AuthRefreshReuseDetected(user_id=str(session.user_id), session_id=str(session.id))
    await emit(connection, event, tenant_id=session.tenant_id, subject=str(session.id), effect=False)
    await audit_trail.record(
        connection,
        "refresh_token.reused",
        tenant_id=session.tenant_id,
        subject=str(session.id),
        actor="",
        outcome="denied",
        details={"user_id": str(session.user_id), "presented_from": client_ip},
    )
    await end_session(connection, session.tenant_id, session.user_id, session.id, reason="refresh_reuse", now=now)


async def _end_oldest(connection: AsyncConnection, newest: Session) -> None:
    """Keep the number of a user's live sessions bounded."""
    beyond = await connection.execute(
        text(
            "SELECT id FROM sessions WHERE tenant_id = :tenant_id AND user_id = :user_id AND revoked_at IS NULL"
            " AND expires_at > :now ORDER BY id DESC OFFSET :kept"
        ),
        {"tenant_id": newest.tenant_id, "user_id": newest.user_id, "now": newest.created_at, "kept": MAX_LIVE_SESSIONS},
    )
    for row in beyond.all():
        await end_session(connection, newest.tenant_id, newest.user_id, row.id, reason="revoked", now=newest.created_at)
