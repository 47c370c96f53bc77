"""Putting documents into a locked collection: who may, whether there is room, and who reads them then."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from wireroom_common.errors import not_found
from wireroom_rag.adapters.collection_locks import VISIBLE, lock_for_members, viewer
from wireroom_rag.adapters.connections import as_worker
from wireroom_rag.adapters.readers_sql import reread
from wireroom_rag.domain.access import Access, document_not_owned
from wireroom_rag.domain.quota import Quota, Quotas, Stored, require_room
from wireroom_rag.domain.scope import Scope

NOBODY = UUID(int=0)


async def fill(
    connection: AsyncConnection,
    scope: Scope,
    collection_id: UUID,
    document_ids: Sequence[UUID],
    *,
    quotas: Quotas,
    attributes: Mapping[UUID, str] | None = None,
) -> None:
    """Make the documents members; from here on the transaction is the service's own work.

    `attributes`: those of each document; None: a document that is a member keeps its own.
    NOT_FOUND for what the caller cannot read. FORBIDDEN for another's document that only readers of its collections read: putting it
    into a further one would show it to those of that one. CONFLICT when the collection is full.
    """
    rows = (
        await connection.execute(
            text(
                "SELECT id, owner_id, access FROM documents WHERE tenant_id = :tenant_id AND kind = 'document'"
                " AND id = ANY(CAST(:ids AS uuid[])) ORDER BY id FOR NO KEY UPDATE"
            ),
            {"tenant_id": scope.tenant_id, "ids": list(document_ids)},
        )
    ).all()
    if len(rows) != len(set(document_ids)):
        raise not_found("document")
    for row in rows:
        if row.access == Access.COLLECTIONS and row.owner_id != scope.user_id and not scope.manages_collections:
            raise document_not_owned("share")
    await as_worker(connection)
    await connection.execute(
        text(
            "INSERT INTO collection_documents (tenant_id, collection_id, document_id, attributes)"
            " SELECT :tenant_id, :collection_id, id, COALESCE(CAST(attributes AS jsonb), '{}')"
            "   FROM unnest(CAST(:ids AS uuid[]), CAST(:attributes AS text[])) AS new (id, attributes)"
            " ON CONFLICT (tenant_id, collection_id, document_id) DO UPDATE"
            "   SET attributes = CASE WHEN :given THEN excluded.attributes ELSE collection_documents.attributes END"
        ),
        {
            "tenant_id": scope.tenant_id,
            "collection_id": collection_id,
            "ids": [row.id for row in rows],
            "attributes": [attributes[row.id] if attributes is not None else None for row in rows],
            "given": attributes is not None,
        },
    )
    await require_room_in(connection, scope.tenant_id, collection_id, quotas)
    await reread(connection, scope.tenant_id, [row.id for row in rows if row.access == Access.COLLECTIONS])


async def require_room_in(connection: AsyncConnection, tenant_id: UUID, collection_id: UUID, quotas: Quotas) -> None:
    """CONFLICT when the (locked) collection has more than it may. It counts what nobody else can add to meanwhile."""
    keys = {"tenant_id": tenant_id, "id": collection_id}
    row = (
        await connection.execute(
            text(
                "UPDATE collections SET last_active_at = now() WHERE tenant_id = :tenant_id AND id = :id RETURNING max_documents, max_bytes"
            ),
            keys,
        )
    ).one()
    quota = Quota(
        row.max_documents if row.max_documents is not None else quotas.collection.documents,
        row.max_bytes if row.max_bytes is not None else quotas.collection.bytes,
    )
    if quota.documents or quota.bytes:
        require_room("collection", await stored_in(connection, tenant_id, collection_id), quota)


async def lock_filled(connection: AsyncConnection, scope: Scope, name: str, into: UUID | None) -> Sequence[UUID]:
    """Lock what the caller's document of this name is in, as far as the caller may fill it, and `into`, for `lock_for_members`.

    The next version needs room in each. What others have put the document into besides does not keep its owner from changing it: it
    counts there, and nothing more goes in. All locks in one order, and before the document's own.
    """
    rows = await connection.execute(
        text(
            f"""
            SELECT c.id FROM collections c
             WHERE {VISIBLE} AND (c.owner_id = :user_id OR :manages OR c.editor_grants && CAST(:readers AS text[]))
               AND EXISTS (SELECT 1 FROM collection_documents m JOIN documents d ON d.tenant_id = m.tenant_id AND d.id = m.document_id
                            WHERE m.tenant_id = c.tenant_id AND m.collection_id = c.id
                              AND d.owner_id = :user_id AND d.name = :name AND d.kind = 'document' AND d.deleted_at IS NULL)
            """  # noqa: S608 - constants
        ),
        {**viewer(scope), "user_id": scope.user_id, "manages": scope.manages_collections, "name": name},
    )
    locked: list[UUID] = []
    for collection_id in sorted({*rows.scalars(), *([into] if into is not None else [])}):
        if collection_id == into:
            await lock_for_members(connection, scope, collection_id)
        found = await connection.execute(
            text("SELECT id FROM collections WHERE tenant_id = :tenant_id AND id = :id FOR NO KEY UPDATE"),
            {"tenant_id": scope.tenant_id, "id": collection_id},
        )
        locked += found.scalars()
    return locked


async def stored_in(connection: AsyncConnection, tenant_id: UUID, collection_id: UUID) -> Stored:
    """Documents and bytes of all members, whoever may read them."""
    row = (
        await connection.execute(
            text(
                "SELECT count(*) AS documents, CAST(COALESCE(sum(d.bytes), 0) AS bigint) AS bytes"
                "  FROM collection_documents m JOIN documents d ON d.tenant_id = m.tenant_id AND d.id = m.document_id"
                " WHERE m.tenant_id = :tenant_id AND m.collection_id = :id"
            ),
            {"tenant_id": tenant_id, "id": collection_id},
        )
    ).one()
    return Stored(row.documents, row.bytes)


async def require_room_for(connection: AsyncConnection, scope: Scope, quotas: Quotas) -> None:
    """CONFLICT when the tenant or the user has more than it may; the rows that were counted are locked by the counting."""
    rows = await connection.execute(
        text(
            "SELECT owner_id, documents, bytes FROM usage WHERE tenant_id = :tenant_id AND owner_id = ANY(CAST(:ids AS uuid[]))"
        ),
        {"tenant_id": scope.tenant_id, "ids": [NOBODY, scope.user_id]},
    )
    stored = {row.owner_id: Stored(row.documents, row.bytes) for row in rows}
    require_room("tenant", stored.get(NOBODY, Stored(0, 0)), quotas.tenant)
    require_room("user", stored.get(scope.user_id, Stored(0, 0)), quotas.user)
