"""Recomputing who reads documents, in the transaction of each change that it follows from.

Locks go from collections to documents, documents by id, and the readers are computed by a later statement than the locks: it then sees
what the transaction it waited for has committed.
"""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from wireroom_common.outbox import emit
from wireroom_protos.events.v1 import events_pb2
from wireroom_rag.adapters.connections import as_worker


async def lock_members(connection: AsyncConnection, tenant_id: UUID, collection_id: UUID) -> list[UUID]:
    """Lock the documents whose readers depend on the collection; the transaction is the service's own work from here on."""
    await as_worker(connection)
    rows = await connection.execute(
        text(
            "SELECT d.id FROM documents d WHERE d.tenant_id = :tenant_id AND d.access = 'collections' AND d.id IN"
            " (SELECT m.document_id FROM collection_documents m WHERE m.tenant_id = :tenant_id AND m.collection_id = :collection_id)"
            " ORDER BY d.id FOR NO KEY UPDATE OF d"
        ),
        {"tenant_id": tenant_id, "collection_id": collection_id},
    )
    return list(rows.scalars())


async def reread(connection: AsyncConnection, tenant_id: UUID, document_ids: Sequence[UUID]) -> int:
    """Compute the readers of these (locked) documents anew, as the service's own work; how many changed."""
    if not document_ids:
        return 0
    changed = await connection.execute(
        text(
            "WITH fresh AS (SELECT d.id, document_readers(d.tenant_id, d.id, d.kind, d.owner_id, d.access) AS readers FROM documents d"
            " WHERE d.tenant_id = :tenant_id AND d.id = ANY(CAST(:ids AS uuid[])) AND d.deleted_at IS NULL)"
            " UPDATE documents d SET readers = fresh.readers FROM fresh"
            " WHERE d.tenant_id = :tenant_id AND d.id = fresh.id AND d.readers IS DISTINCT FROM fresh.readers"
        ),
        {"tenant_id": tenant_id, "ids": list(document_ids)},
    )
    return changed.rowcount


async def reread_for(connection: AsyncConnection, tenant_id: UUID, collection_id: UUID, document_ids: Sequence[UUID]) -> None:
    """`reread` after a change of the collection, and the event if anybody reads more or less than before."""
    changed = await reread(connection, tenant_id, document_ids)
    if changed:
        event = events_pb2.RagAclChanged(collection_id=str(collection_id), documents=changed)
        await emit(connection, event, tenant_id=tenant_id, subject=str(collection_id))
