"""Feeds and articles belong to tenants, not to users: only the erasure of a tenant takes them away."""

from __future__ import annotations

from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_news.storage.feeds import lock_tenant


async def refuse_erased(connection: AsyncConnection, tenant_id: UUID) -> None:
    """FORBIDDEN `tenant_erased`; under the tenant's lock, so that an erasure comes before or after, never between."""
    found = await connection.execute(
        text("SELECT EXISTS (SELECT 1 FROM erased_tenants WHERE tenant_id = :tenant_id)"), {"tenant_id": tenant_id}
    )
    if found.scalar_one():
        raise WireroomError(ErrorKind.FORBIDDEN, "tenant_erased", "The tenant that this would belong to is being erased.")


async def erase_tenant(connection: AsyncConnection, tenant_id: UUID, erasure_id: UUID) -> dict[str, int]:
    """Everything of the tenant, once; how many of each went, however often it is asked."""
    values = {"tenant_id": tenant_id, "erasure_id": erasure_id}
    await lock_tenant(connection, tenant_id)
    counts = (
        await connection.execute(
            text(
                "INSERT INTO erased_tenants AS e (tenant_id, erasure_id, feeds, articles) SELECT :tenant_id, :erasure_id,"
                " (SELECT count(*) FROM feeds WHERE tenant_id = :tenant_id),"
                " (SELECT count(*) FROM articles WHERE tenant_id = :tenant_id)"
                " ON CONFLICT (tenant_id) DO UPDATE SET erasure_id = e.erasure_id RETURNING feeds, articles"
            ),
            values,
        )
    ).one()
    await connection.execute(text("DELETE FROM feeds WHERE tenant_id = :tenant_id"), values)
    return {"feeds": counts.feeds, "articles": counts.articles}
