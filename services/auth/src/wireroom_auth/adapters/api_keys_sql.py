"""API keys in PostgreSQL."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from google.protobuf.timestamp_pb2 import Timestamp
from sqlalchemy import Row, text

from wireroom_auth.adapters.accounts_sql import USER_COLUMNS, user_of
from wireroom_auth.domain.api_keys import ApiKey, OwnedKey
from wireroom_auth.domain.credentials import digest
from wireroom_common.db import Database
from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_common.outbox import emit
from wireroom_protos.events.v1 import events_pb2

_COLUMNS = (
    "k.id, k.tenant_id, k.owner_id, k.name, k.prefix, k.permissions, k.created_at, k.expires_at, k.last_used_at, k.revoked_at"
)


class SqlApiKeys:
    """Keys are found by the digest of their secret."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, key: ApiKey, secret: str, *, max_live: int) -> None:
        place = {"tenant_id": key.tenant_id, "owner_id": key.owner_id, "now": key.created_at}
        async with self._database.tenant(key.tenant_id) as connection:
            # The lock on the owner makes concurrent creations count each other.
            await connection.execute(
                text("SELECT 1 FROM users WHERE tenant_id = :tenant_id AND id = :owner_id FOR NO KEY UPDATE"), place
            )
            live = await connection.execute(
                text(
                    "SELECT count(*) FROM api_keys WHERE tenant_id = :tenant_id AND owner_id = :owner_id"
                    " AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > :now)"
                ),
                place,
            )
            if live.scalar_one() >= max_live:
                raise WireroomError(
                    ErrorKind.CONFLICT,
                    "api_key_limit_reached",
                    f"You hold {max_live} API keys, which is the limit; revoke one that is no longer used.",
                )
            await connection.execute(
                text(
                    "INSERT INTO api_keys (tenant_id, id, owner_id, name, prefix, key_hash, permissions, created_at, expires_at)"
                    " VALUES (:tenant_id, :id, :owner_id, :name, :prefix, :hash, :permissions, :now, :expires_at)"
                ),
                {
                    **place,
                    "id": key.id,
                    "name": key.name,
                    "prefix": key.prefix,
                    "hash": digest(secret),
                    "permissions": list(key.permissions),
                    "expires_at": key.expires_at,
                },
            )
            event = events_pb2.AuthApiKeyCreated(key_id=str(key.id), owner_id=str(key.owner_id), permissions=key.permissions)
            if key.expires_at is not None:
                event.expires_at.CopyFrom(_timestamp(key.expires_at))
            await emit(connection, event, tenant_id=key.tenant_id, subject=str(key.id), actor=str(key.owner_id))

    async def page(self, tenant_id: UUID, owner_id: UUID, *, before: UUID | None, limit: int) -> list[ApiKey]:
        async with self._database.tenant(tenant_id) as connection:
            rows = await connection.execute(
                text(
                    f"SELECT {_COLUMNS} FROM api_keys k"  # noqa: S608  constant
                    " WHERE k.tenant_id = :tenant_id AND k.owner_id = :owner_id AND k.revoked_at IS NULL"
                    " AND (CAST(:before AS uuid) IS NULL OR k.id < :before) ORDER BY k.id DESC LIMIT :limit"
                ),
                {"tenant_id": tenant_id, "owner_id": owner_id, "before": before, "limit": limit},
            )
            return [_key_of(row) for row in rows]

    async def revoke(self, tenant_id: UUID, owner_id: UUID, key_id: UUID, *, now: datetime) -> bool:
        async with self._database.tenant(tenant_id) as connection:
            revoked = await connection.execute(
                text(
                    "UPDATE api_keys SET revoked_at = :now"
                    " WHERE tenant_id = :tenant_id AND id = :id AND owner_id = :owner_id AND revoked_at IS NULL RETURNING id"
                ),
                {"tenant_id": tenant_id, "id": key_id, "owner_id": owner_id, "now": now},
            )
            if revoked.first() is None:
                return False
            event = events_pb2.AuthApiKeyRevoked(key_id=str(key_id), owner_id=str(owner_id))
            await emit(connection, event, tenant_id=tenant_id, subject=str(key_id), actor=str(owner_id))
        return True

    async def find(self, secret: str) -> OwnedKey | None:
        async with self._database.system() as connection:
            row = (
                await connection.execute(
                    text(
                        f"SELECT {_COLUMNS}, {USER_COLUMNS} FROM api_keys k"  # noqa: S608  constant
                        " JOIN users u ON u.tenant_id = k.tenant_id AND u.id = k.owner_id WHERE k.key_hash = :hash"
                    ),
                    {"hash": digest(secret)},
                )
            ).first()
        return OwnedKey(_key_of(row), user_of(row)) if row else None

    async def touch(self, key: ApiKey, *, now: datetime, at_most_every: timedelta) -> None:
        if key.last_used_at is not None and now - key.last_used_at < at_most_every:
            return
        async with self._database.tenant(key.tenant_id) as connection:
            await connection.execute(
                text(
                    "UPDATE api_keys SET last_used_at = :now WHERE tenant_id = :tenant_id AND id = :id"
                    " AND (last_used_at IS NULL OR last_used_at <= :threshold)"
                ),
                {"tenant_id": key.tenant_id, "id": key.id, "now": now, "threshold": now - at_most_every},
            )


def _key_of(row: Row[Any]) -> ApiKey:
    return ApiKey(
        id=row.id,
        tenant_id=row.tenant_id,
        owner_id=row.owner_id,
        name=row.name,
        prefix=row.prefix,
        permissions=tuple(row.permissions),
        created_at=row.created_at,
        expires_at=row.expires_at,
        last_used_at=row.last_used_at,
        revoked_at=row.revoked_at,
    )


def _timestamp(moment: datetime) -> Timestamp:
    timestamp = Timestamp()
    timestamp.FromDatetime(moment)
    return timestamp
