"""What this service erases of a user or a tenant: everything but the audit trail, which knows people by their ids only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from wireroom_auth.domain.identity import User
from wireroom_auth.domain.login_backoff import AttemptKeys
from wireroom_common.outbox import emit
from wireroom_protos.events.v1 import events_pb2

# What hangs on a user's row and goes with it: table and the column that names the user.
_OF_USER = (
    ("sessions", "user_id"),
    ("api_keys", "owner_id"),
    ("mails", "user_id"),
    ("one_time_tokens", "user_id"),
    ("totp_factors", "user_id"),
    ("oidc_identities", "user_id"),
)
_OF_TENANT = ("mails", "invitations", "users", "custom_roles")


async def erase_account(connection: AsyncConnection, user: User, *, actor: str) -> dict[str, int]:
    """The user's row and all that hangs on it, on the (locked) tenant's connection; what went, by kind."""
    place = {"tenant_id": user.tenant_id, "id": user.id}
    await end_keys(connection, user.tenant_id, user.id, actor=actor)
    counts = {
        table: await _count(connection, f"{table} WHERE tenant_id = :tenant_id AND {column} = :id", place)
        for table, column in _OF_USER
    }
    gone = await connection.execute(
        text("DELETE FROM invitations WHERE tenant_id = :tenant_id AND email = :email"),
        {"tenant_id": user.tenant_id, "email": user.email},
    )
    await _forget_addresses(connection, [user.email])
    await connection.execute(text("DELETE FROM users WHERE tenant_id = :tenant_id AND id = :id"), place)
    return {**counts, "invitations": gone.rowcount, "users": 1}


async def erase_directory(connection: AsyncConnection, tenant_id: UUID, *, actor: str) -> dict[str, int]:
    """The (locked) tenant's row and everything in it; what went, by kind."""
    place = {"tenant_id": tenant_id}
    await end_keys(connection, tenant_id, None, actor=actor)
    counts = {table: await _count(connection, f"{table} WHERE tenant_id = :tenant_id", place) for table, _ in _OF_USER}
    emails = await connection.execute(text("SELECT email FROM users WHERE tenant_id = :tenant_id"), place)
    await _forget_addresses(connection, emails.scalars().all())
    for table in _OF_TENANT:
        gone = await connection.execute(text(f"DELETE FROM {table} WHERE tenant_id = :tenant_id"), place)  # noqa: S608  constants
        counts[table] = max(counts.get(table, 0), gone.rowcount)
    await connection.execute(text("DELETE FROM tenants WHERE tenant_id = :tenant_id"), place)
    return counts


async def end_keys(connection: AsyncConnection, tenant_id: UUID, owner_id: UUID | None, *, actor: str) -> None:
    """Tell everybody who may remember one of the keys: of the owner, or of all of the tenant."""
    keys = await connection.execute(
        text(
            "SELECT id, owner_id FROM api_keys WHERE tenant_id = :tenant_id AND revoked_at IS NULL"
            " AND (CAST(:owner_id AS uuid) IS NULL OR owner_id = :owner_id)"
        ),
        {"tenant_id": tenant_id, "owner_id": owner_id},
    )
    for key in keys.all():
        event = events_pb2.AuthApiKeyRevoked(key_id=str(key.id), owner_id=str(key.owner_id))
        await emit(connection, event, tenant_id=tenant_id, subject=str(key.id), actor=actor)


async def _forget_addresses(connection: AsyncConnection, emails: Sequence[str]) -> None:
    await connection.execute(
        text(
            "SELECT forget_address(address, address_key)"
            " FROM unnest(CAST(:emails AS text[]), CAST(:keys AS bytea[])) AS gone (address, address_key)"
        ),
        {"emails": list(emails), "keys": [AttemptKeys.of(email, "").address for email in emails]},
    )


async def _count(connection: AsyncConnection, of: str, values: dict[str, Any]) -> int:
    count: int = (await connection.execute(text(f"SELECT count(*) FROM {of}"), values)).scalar_one()  # noqa: S608  constants
    return count
