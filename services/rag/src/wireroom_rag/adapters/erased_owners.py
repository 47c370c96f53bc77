"""Uploads against erasures: what is added while its owner is erased must be refused or erased, never missed by both."""

from __future__ import annotations

from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from wireroom_common.errors import ErrorKind, WireroomError

_LOCK = "hashtextextended('rag.erasure/' || CAST(:tenant_id AS text), 0)"


async def lock_additions(connection: AsyncConnection, tenant_id: UUID) -> None:
    """Until the commit nobody of the tenant adds anything; what others were adding is committed."""
    await connection.execute(text(f"SELECT pg_advisory_xact_lock({_LOCK})"), {"tenant_id": tenant_id})


async def refuse_erased(connection: AsyncConnection, tenant_id: UUID, owner_id: UUID) -> None:
    """FORBIDDEN `owner_erased` if the owner, or the tenant, is erased; if not, no erasure begins before the commit."""
    # A statement of its own: the next one sees what the lock waited for.
    await connection.execute(text(f"SELECT pg_advisory_xact_lock_shared({_LOCK})"), {"tenant_id": tenant_id})
    if await is_erased(connection, tenant_id, owner_id):
        raise WireroomError(ErrorKind.FORBIDDEN, "owner_erased", "The account that this would belong to is being erased.")


async def is_erased(connection: AsyncConnection, tenant_id: UUID, user_id: UUID) -> bool:
    """Whether an erasure of the user or of the tenant has begun."""
    found = await connection.execute(
        text(
            "SELECT EXISTS (SELECT 1 FROM erasures WHERE tenant_id = :tenant_id AND user_id = :user_id)"
            " OR EXISTS (SELECT 1 FROM erasures WHERE tenant_id = :tenant_id AND user_id IS NULL)"
        ),
        {"tenant_id": tenant_id, "user_id": user_id},
    )
    return bool(found.scalar_one())
