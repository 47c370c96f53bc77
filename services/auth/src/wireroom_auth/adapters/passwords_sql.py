"""Passwords of accounts in PostgreSQL."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from wireroom_auth.adapters import audit_trail
from wireroom_auth.adapters.accounts_sql import USER_COLUMNS, user_of
from wireroom_auth.adapters.epochs import Raised, raise_epoch
from wireroom_auth.adapters.session_rows import add_token, session_of
from wireroom_auth.domain.credentials import new_refresh_token
from wireroom_auth.domain.identity import Account, User
from wireroom_auth.domain.one_time_tokens import TokenPurpose
from wireroom_auth.domain.sessions import Rotation, RotationResult
from wireroom_common.db import Database
from wireroom_common.outbox import emit
from wireroom_protos.events.v1 import events_pb2

_WORKS = r"""
    SELECT password_hash AS example FROM (
        SELECT min(password_hash) AS password_hash, count(*) AS users FROM auth.users WHERE password_hash IS NOT NULL
        GROUP BY substring(password_hash from '^(\$(2[aby]\$\d\d|argon2id\$v=\d+\$[^$]+)\$)') ORDER BY users DESC LIMIT 10
    ) AS kinds
"""
_BEGUN = "FROM one_time_tokens WHERE tenant_id = :tenant_id AND user_id = :id AND purpose = ANY (:purposes)"
_PURPOSES = [TokenPurpose.RESET_PASSWORD.value, TokenPurpose.FINISH_LOGIN.value]


async def set_password(
    connection: AsyncConnection, user: User, password_hash: str, *, via: str, now: datetime, keep_session: UUID | None = None
) -> Raised | None:
    """Store a new password, void the user's access tokens and end all sessions but `keep_session`; None if the user is gone.

    On the caller's connection of the user's tenant. `via`: "change" or "reset".
    """
    changed = await connection.execute(
        text("UPDATE users SET password_hash = :hash WHERE tenant_id = :tenant_id AND id = :id"),
        {"tenant_id": user.tenant_id, "id": user.id, "hash": password_hash},
    )
    if changed.rowcount == 0:
        return None
    await emit(
        connection,
        events_pb2.AuthPasswordChanged(user_id=str(user.id), via=via),
        tenant_id=user.tenant_id,
        subject=str(user.id),
        actor=str(user.id),
    )
    await audit_trail.record(
        connection,
        "password.changed",
        tenant_id=user.tenant_id,
        subject=str(user.id),
        actor=str(user.id),
        details={"via": via},
    )
    return await raise_epoch(connection, user.tenant_id, user.id, "password", now, keep_session=keep_session)


class SqlPasswords:
    """All within the tenant of the account, but for the kinds of hashes there are."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def account(self, tenant_id: UUID, user_id: UUID) -> Account | None:
        async with self._database.tenant(tenant_id) as connection:
            row = (
                await connection.execute(
                    text(f"SELECT {USER_COLUMNS}, u.password_hash FROM users u WHERE u.tenant_id = :tenant_id AND u.id = :id"),  # noqa: S608  constant
                    {"tenant_id": tenant_id, "id": user_id},
                )
            ).first()
        return Account(user_of(row), row.password_hash) if row else None

    async def upgrade(self, account: Account, password_hash: str) -> bool:
        async with self._database.tenant(account.user.tenant_id) as connection:
            changed = await connection.execute(
                text("UPDATE users SET password_hash = :new WHERE tenant_id = :tenant_id AND id = :id AND password_hash = :old"),
                {
                    "tenant_id": account.user.tenant_id,
                    "id": account.user.id,
                    "old": account.password_hash,
                    "new": password_hash,
                },
            )
            return changed.rowcount == 1

    async def change(self, account: Account, password_hash: str, session_id: UUID, *, now: datetime) -> RotationResult | None:
        user = account.user
        place = {"tenant_id": user.tenant_id, "id": user.id, "session_id": session_id, "now": now}
        async with self._database.tenant(user.tenant_id) as connection:
            # Before the user, as those who present one of these tokens do.
            await connection.execute(text(f"SELECT 1 {_BEGUN} ORDER BY id FOR UPDATE"), {**place, "purposes": _PURPOSES})
            # The user before the session, as everywhere.
            same = await connection.execute(
                text(
                    "SELECT 1 FROM users WHERE tenant_id = :tenant_id AND id = :id AND password_hash IS NOT DISTINCT FROM :old"
                    " FOR NO KEY UPDATE"
                ),
                {**place, "old": account.password_hash},
            )
            if same.first() is None:
                return None
            row = (
                await connection.execute(
                    text(
                        "SELECT s.* FROM sessions s WHERE s.tenant_id = :tenant_id AND s.id = :session_id AND s.user_id = :id"
                        " AND s.revoked_at IS NULL AND s.expires_at > :now FOR UPDATE"
                    ),
                    place,
                )
            ).first()
            if row is None:
                return None
            session = session_of(row)
            await set_password(connection, user, password_hash, via="change", now=now, keep_session=session_id)
            # Resets that were mailed and logins that were begun are ways round the new password.
            await connection.execute(text(f"DELETE {_BEGUN}"), {**place, "purposes": _PURPOSES})
            # The token in use until now counts as spent, without a successor to hand out: what is left of it is no way in.
            await connection.execute(
                text(
                    "UPDATE refresh_tokens SET used_at = coalesce(used_at, clock_timestamp()), successor = NULL"
                    " WHERE tenant_id = :tenant_id AND session_id = :session_id"
                ),
                place,
            )
            refresh_token = new_refresh_token()
            await add_token(connection, session, row.latest_counter + 1, refresh_token)
            fresh = (
                await connection.execute(
                    text(f"SELECT {USER_COLUMNS} FROM users u WHERE u.tenant_id = :tenant_id AND u.id = :id"),  # noqa: S608  constant
                    place,
                )
            ).one()
        return RotationResult(Rotation.SUCCESSOR, session, user_of(fresh), refresh_token)

    async def rename(self, tenant_id: UUID, user_id: UUID, name: str) -> User | None:
        async with self._database.tenant(tenant_id) as connection:
            renamed = await connection.execute(
                text("UPDATE users SET name = :name WHERE tenant_id = :tenant_id AND id = :id AND disabled_at IS NULL"),
                {"tenant_id": tenant_id, "id": user_id, "name": name},
            )
            if renamed.rowcount == 0:
                return None
            row = (
                await connection.execute(
                    text(f"SELECT {USER_COLUMNS} FROM users u WHERE u.tenant_id = :tenant_id AND u.id = :id"),  # noqa: S608  constant
                    {"tenant_id": tenant_id, "id": user_id},
                )
            ).one()
            await audit_trail.record(connection, "user.renamed", tenant_id=tenant_id, subject=str(user_id), actor=str(user_id))
        return user_of(row)

    async def examples(self) -> list[str]:
        """One stored hash of each kind, the most frequent kind first."""
        async with self._database.system() as connection:
            return [row.example for row in await connection.execute(text(_WORKS))]
