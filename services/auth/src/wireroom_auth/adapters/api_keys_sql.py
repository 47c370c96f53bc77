"""API keys in PostgreSQL."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from wireroom_auth.adapters import audit_trail
from wireroom_auth.adapters.accounts_sql import USER_COLUMNS, user_of
from wireroom_auth.adapters.encryption import REQUEST_SIGNING, Sealing
from wireroom_auth.domain.api_keys import ApiKey, KeySecrets, OwnedKey
from wireroom_auth.domain.credentials import digest
from wireroom_common.db import Database
from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_common.outbox import emit
from wireroom_protos.events.v1 import events_pb2

_COLUMNS = (
    "k.id, k.tenant_id, k.owner_id, k.name, k.prefix, k.permissions, k.created_at, k.expires_at, k.last_used_at, k.revoked_at,"
    " k.limits, k.budget_day_micros, k.budget_month_micros, k.signing_secret_sealed, k.previous_signing_secret_sealed,"
    " k.previous_until, k.version"
)
_OWN = "k.tenant_id = :tenant_id AND k.owner_id = :owner_id AND k.id = :id AND k.revoked_at IS NULL"


class SqlApiKeys:
    """Keys are found by the digest of their whole secret, and by nothing shorter. Signing secrets are sealed."""

    def __init__(self, database: Database, sealing: Sealing) -> None:
        self._database = database
        self._sealing = sealing

    async def add(self, key: ApiKey, secrets: KeySecrets, *, max_live: int) -> None:
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
                    "INSERT INTO api_keys (tenant_id, id, owner_id, name, prefix, key_hash, permissions, created_at, expires_at,"
                    " limits, budget_day_micros, budget_month_micros, signing_secret_sealed)"
                    " VALUES (:tenant_id, :id, :owner_id, :name, :prefix, :hash, :permissions, :now, :expires_at,"
                    " CAST(:limits AS jsonb), :day, :month, :sealed)"
                ),
                {
                    **place,
                    **_terms(key),
                    "id": key.id,
                    "prefix": key.prefix,
                    "hash": digest(secrets.secret),
                    "expires_at": key.expires_at,
                    "sealed": self._sealed(key.id, secrets),
                },
            )
            event = events_pb2.AuthApiKeyCreated(
                key_id=str(key.id),
                owner_id=str(key.owner_id),
                permissions=key.permissions,
                version=key.version,
                budget_day_micros=key.budget_day_micros,
                budget_month_micros=key.budget_month_micros,
            )
            if key.expires_at is not None:
                event.expires_at.CopyFrom(_timestamp(key.expires_at))
            await _tell(connection, key, event, "api_key.created", {"permissions": sorted(key.permissions)})

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

    async def get(self, tenant_id: UUID, owner_id: UUID, key_id: UUID) -> ApiKey | None:
        async with self._database.tenant(tenant_id) as connection:
            return await _own(connection, tenant_id, owner_id, key_id)

    async def update(self, tenant_id: UUID, owner_id: UUID, key_id: UUID, change: Callable[[ApiKey], ApiKey]) -> ApiKey | None:
        async with self._database.tenant(tenant_id) as connection:
            before = await _own(connection, tenant_id, owner_id, key_id, " FOR NO KEY UPDATE")
            if before is None:
                return None
            after = change(before)
            if after == before:
                return before
            after = replace(after, version=before.version + 1)
            await connection.execute(
                text(
                    "UPDATE api_keys SET name = :name, permissions = :permissions, limits = CAST(:limits AS jsonb),"
                    " budget_day_micros = :day, budget_month_micros = :month, version = version + 1"
                    " WHERE tenant_id = :tenant_id AND id = :id"
                ),
                {"tenant_id": tenant_id, "id": key_id, **_terms(after)},
            )
            changed = [name for name in _TERMS if getattr(before, name) != getattr(after, name)]
            details = {"changed": changed, "permissions": sorted(after.permissions)}
            await _tell(connection, after, _changed(after, "updated"), "api_key.updated", details)
            return after

    async def rotate(
        self,
        tenant_id: UUID,
        owner_id: UUID,
        key_id: UUID,
        secrets: KeySecrets,
        *,
        prefix: str,
        until: datetime | None,
        now: datetime,
    ) -> ApiKey | None:
        async with self._database.tenant(tenant_id) as connection:
            found = await connection.execute(
                text(
                    "UPDATE api_keys k SET key_hash = :hash, prefix = :prefix, signing_secret_sealed = :sealed,"  # noqa: S608  constants
                    " previous_hash = CASE WHEN :overlaps THEN k.key_hash END,"
                    " previous_signing_secret_sealed = CASE WHEN :overlaps THEN k.signing_secret_sealed END,"
                    " previous_until = :until, version = k.version + 1 WHERE "
                    + _OWN
                    + " AND (k.expires_at IS NULL OR k.expires_at > :now)"
                    " AND (k.signing_secret_sealed IS NOT NULL) = :signs RETURNING " + _COLUMNS
                ),
                {
                    "tenant_id": tenant_id,
                    "owner_id": owner_id,
                    "id": key_id,
                    "hash": digest(secrets.secret),
                    "prefix": prefix,
                    "sealed": self._sealed(key_id, secrets),
                    "signs": bool(secrets.signing_secret),
                    "overlaps": until is not None,
                    "until": until,
                    "now": now,
                },
            )
            row = found.first()
            if row is None:
                return None
            key = _key_of(row)
            details = {"previous_until": until.isoformat() if until else None}
            await _tell(connection, key, _changed(key, "rotated"), "api_key.rotated", details)
            return key

    async def revoke(self, tenant_id: UUID, owner_id: UUID, key_id: UUID, *, now: datetime) -> bool:
        async with self._database.tenant(tenant_id) as connection:
            revoked = await connection.execute(
                text(
                    f"UPDATE api_keys k SET revoked_at = :now WHERE {_OWN} RETURNING {_COLUMNS}"  # noqa: S608  constant
                ),
                {"tenant_id": tenant_id, "id": key_id, "owner_id": owner_id, "now": now},
            )
            row = revoked.first()
            if row is None:
                return False
            event = events_pb2.AuthApiKeyRevoked(key_id=str(key_id), owner_id=str(owner_id))
            await _tell(connection, _key_of(row), event, "api_key.revoked", {})
        return True

    async def find(self, secret: str, *, now: datetime) -> OwnedKey | None:
        return await self._find(
            "(k.key_hash = :hash OR (k.previous_hash = :hash AND k.previous_until > :now))",
            {"hash": digest(secret), "now": now},
            "CASE WHEN k.previous_hash = :hash THEN k.previous_until END AS secret_until",
            now,
        )

    async def find_by_id(self, key_id: UUID, *, now: datetime) -> OwnedKey | None:
        return await self._find("k.id = :id", {"id": key_id}, "CAST(NULL AS timestamptz) AS secret_until", now)

    async def _find(self, where: str, values: dict[str, object], until: str, now: datetime) -> OwnedKey | None:
        async with self._database.system() as connection:
            row = (
                await connection.execute(
                    text(
                        f"SELECT {_COLUMNS}, {until}, {USER_COLUMNS} FROM api_keys k"  # noqa: S608  constants
                        f" JOIN users u ON u.tenant_id = k.tenant_id AND u.id = k.owner_id WHERE {where}"
                    ),
                    values,
                )
            ).first()
        if row is None:
            return None
        previous = row.previous_signing_secret_sealed if row.previous_until is not None and row.previous_until > now else None
        return OwnedKey(
            _key_of(row),
            user_of(row),
            until=row.secret_until,
            signing_secret=self._unsealed(row.id, row.signing_secret_sealed),
            previous_signing_secret=self._unsealed(row.id, previous),
        )

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

    async def record_token(self, key: ApiKey, *, outcome: str, reason: str = "") -> None:
        async with self._database.tenant(key.tenant_id) as connection:
            await audit_trail.record(
                connection,
                "client_token.issued" if outcome == "success" else "client_token.refused",
                tenant_id=key.tenant_id,
                subject=str(key.id),
                actor=str(key.id),
                outcome=outcome,
                details={"reason": reason} if reason else {},
            )

    def _sealed(self, key_id: UUID, secrets: KeySecrets) -> bytes | None:
        if not secrets.signing_secret:
            return None
        return self._sealing.seal(REQUEST_SIGNING, secrets.signing_secret.encode(), bound_to=key_id.bytes)

    def _unsealed(self, key_id: UUID, sealed: bytes | None) -> bytes:
        return self._sealing.unseal(REQUEST_SIGNING, bytes(sealed), bound_to=key_id.bytes) if sealed else b""


_TERMS = ("name", "permissions", "limits", "budget_day_micros", "budget_month_micros")


def _terms(key: ApiKey) -> dict[str, object]:
    return {
        "name": key.name,
        "permissions": list(key.permissions),
        "limits": json.dumps(dict(key.limits)),
        "day": key.budget_day_micros,
        "month": key.budget_month_micros,
    }


async def _own(connection: AsyncConnection, tenant_id: UUID, owner_id: UUID, key_id: UUID, lock: str = "") -> ApiKey | None:
    row = (
        await connection.execute(
            text(f"SELECT {_COLUMNS} FROM api_keys k WHERE {_OWN}{lock}"),  # noqa: S608  constants
            {"tenant_id": tenant_id, "owner_id": owner_id, "id": key_id},
        )
    ).first()
    return _key_of(row) if row else None


async def _tell(connection: AsyncConnection, key: ApiKey, event: Message, action: str, details: Mapping[str, object]) -> None:
    await emit(connection, event, tenant_id=key.tenant_id, subject=str(key.id), actor=str(key.owner_id))
    await audit_trail.record(
        connection,
        action,
        tenant_id=key.tenant_id,
        subject=str(key.id),
        actor=str(key.owner_id),
        # Not its name: the trail outlives its owner, whose words must not stay.
        details={"prefix": key.prefix, **details},
    )


def _changed(key: ApiKey, change: str) -> events_pb2.AuthApiKeyChanged:
    return events_pb2.AuthApiKeyChanged(
        key_id=str(key.id),
        owner_id=str(key.owner_id),
        change=change,
        version=key.version,
        budget_day_micros=key.budget_day_micros,
        budget_month_micros=key.budget_month_micros,
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
        limits=dict(row.limits),
        budget_day_micros=row.budget_day_micros,
        budget_month_micros=row.budget_month_micros,
        signature_required=row.signing_secret_sealed is not None,
        previous_until=row.previous_until,
        version=row.version,
    )


def _timestamp(moment: datetime) -> Timestamp:
    timestamp = Timestamp()
    timestamp.FromDatetime(moment)
    return timestamp
