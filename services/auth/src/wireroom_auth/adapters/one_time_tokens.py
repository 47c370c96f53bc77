"""One-time tokens: bound to a purpose, a user and the address they were made for; only their SHA-256 is stored."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from wireroom_auth.domain.credentials import digest
from wireroom_auth.domain.one_time_tokens import TokenPurpose, looks_like_one_time_token
from wireroom_common.clock import Clock
from wireroom_common.db import Database
from wireroom_common.ids import new_id


@dataclass(frozen=True)
class OneTimeToken:
    """A token that is locked by the transaction it was read in."""

    tenant_id: UUID
    id: UUID
    user_id: UUID
    email: str
    attempts: int
    data: Mapping[str, Any] = field(default_factory=dict, repr=False)


async def issue(
    connection: AsyncConnection,
    *,
    tenant_id: UUID,
    user_id: UUID,
    purpose: TokenPurpose,
    email: str,
    now: datetime,
    life: timedelta,
    data: Mapping[str, Any] | None = None,
) -> str:
    """A new token, stored in the caller's transaction (of the tenant, or of the system role)."""
    token = f"wr_ot_{secrets.token_urlsafe(32)}"
    await connection.execute(
        text(
            "INSERT INTO one_time_tokens (tenant_id, id, user_id, purpose, token_hash, email, data, created_at, expires_at)"
            " VALUES (:tenant_id, :id, :user_id, :purpose, :hash, :email, CAST(:data AS jsonb), :now, :expires_at)"
        ),
        {
            "tenant_id": tenant_id,
            "id": new_id(),
            "user_id": user_id,
            "purpose": purpose.value,
            "hash": digest(token),
            "email": email,
            "data": json.dumps(data or {}),
            "now": now,
            "expires_at": now + life,
        },
    )
    return token


async def tenant_of(database: Database, token: str, purpose: TokenPurpose) -> UUID | None:
    """The tenant of a token that exists; whether it is still good only `lock` tells."""
    if not looks_like_one_time_token(token):
        return None
    async with database.system() as connection:
        found: UUID | None = await connection.scalar(
            text("SELECT tenant_id FROM one_time_tokens WHERE token_hash = :hash AND purpose = :purpose"),
            {"hash": digest(token), "purpose": purpose.value},
        )
    return found


async def lock(connection: AsyncConnection, token: str, purpose: TokenPurpose, *, now: datetime) -> OneTimeToken | None:
    """The token, if it is unspent and has not expired; others that present it wait for the caller's transaction."""
    row = (
        await connection.execute(
            text(
                "SELECT tenant_id, id, user_id, email, attempts, data FROM one_time_tokens"
                " WHERE token_hash = :hash AND purpose = :purpose AND expires_at > :now FOR UPDATE"
            ),
            {"hash": digest(token), "purpose": purpose.value, "now": now},
        )
    ).first()
    return OneTimeToken(row.tenant_id, row.id, row.user_id, row.email, row.attempts, row.data) if row else None


async def count_attempt(connection: AsyncConnection, token: OneTimeToken) -> None:
    """Remember that somebody presented the token without what has to come with it."""
    await connection.execute(
        text("UPDATE one_time_tokens SET attempts = attempts + 1 WHERE tenant_id = :tenant_id AND id = :id"),
        {"tenant_id": token.tenant_id, "id": token.id},
    )


async def spend(connection: AsyncConnection, token: OneTimeToken) -> None:
    """The token and the user's others of the same purpose are gone."""
    await connection.execute(
        text(
            "DELETE FROM one_time_tokens WHERE tenant_id = :tenant_id AND user_id = :user_id AND purpose ="
            " (SELECT purpose FROM one_time_tokens WHERE tenant_id = :tenant_id AND id = :id)"
        ),
        {"tenant_id": token.tenant_id, "user_id": token.user_id, "id": token.id},
    )


async def spend_one(connection: AsyncConnection, token: OneTimeToken) -> None:
    """The token is gone; the user's others stay."""
    await connection.execute(
        text("DELETE FROM one_time_tokens WHERE tenant_id = :tenant_id AND id = :id"),
        {"tenant_id": token.tenant_id, "id": token.id},
    )


async def purge(database: Database, clock: Clock) -> None:
    """Remove a batch of expired tokens."""
    async with database.system() as connection:
        await connection.execute(
            text(
                "WITH old AS MATERIALIZED (SELECT tenant_id, id FROM one_time_tokens WHERE expires_at < :now LIMIT 1000)"
                " DELETE FROM one_time_tokens t USING old WHERE t.tenant_id = old.tenant_id AND t.id = old.id"
            ),
            {"now": clock.now()},
        )
