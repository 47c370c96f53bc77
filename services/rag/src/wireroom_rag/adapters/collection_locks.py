"""Who sees a collection, and locking one for a change."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from wireroom_common.errors import not_found
from wireroom_rag.domain.collection import require_change
from wireroom_rag.domain.scope import Scope

# The one place that says who sees a collection.
VISIBLE = "c.tenant_id = :tenant_id AND c.readers && CAST(:readers AS text[])"


def viewer(scope: Scope) -> dict[str, Any]:
    """The parameters of `VISIBLE`."""
    return {"tenant_id": scope.tenant_id, "readers": list(scope.readers)}


async def visible_owner(connection: AsyncConnection, scope: Scope, collection_id: UUID, lock: str = "") -> UUID:
    """The collection's owner, its row locked as said; NOT_FOUND for what the caller does not see."""
    owner_id: UUID = (await _seen(connection, scope, collection_id, lock)).owner_id
    return owner_id


async def lock_for_change(connection: AsyncConnection, scope: Scope, collection_id: UUID) -> None:
    """Lock the collection, whose list of access or members the owner or a manager is about to change; NOT_FOUND, FORBIDDEN."""
    require_change(scope, await visible_owner(connection, scope, collection_id, "FOR NO KEY UPDATE"))


async def lock_for_members(connection: AsyncConnection, scope: Scope, collection_id: UUID) -> None:
    """Lock the collection for one who may put documents in and take them out, as its editors may; NOT_FOUND, FORBIDDEN."""
    found = await _seen(connection, scope, collection_id, "FOR NO KEY UPDATE")
    if not set(found.editor_grants).intersection(scope.readers):
        require_change(scope, found.owner_id)


async def _seen(connection: AsyncConnection, scope: Scope, collection_id: UUID, lock: str) -> Row[Any]:
    found = (
        await connection.execute(
            text(f"SELECT c.owner_id, c.editor_grants FROM collections c WHERE {VISIBLE} AND c.id = :id {lock}"),  # noqa: S608 - constants
            {**viewer(scope), "id": collection_id},
        )
    ).one_or_none()
    if found is None:
        raise not_found("collection")
    return found
