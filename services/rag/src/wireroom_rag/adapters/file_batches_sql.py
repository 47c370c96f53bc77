"""Batches of documents in collections, in PostgreSQL."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from wireroom_common.db import Database
from wireroom_common.errors import not_found
from wireroom_common.ids import new_id
from wireroom_common.outbox import emit
from wireroom_protos.events.v1 import events_pb2
from wireroom_rag.adapters.collection_locks import lock_for_members, visible_owner
from wireroom_rag.adapters.collection_members_sql import MemberStore
from wireroom_rag.adapters.collections_sql import cut, page_clause, stored
from wireroom_rag.adapters.connections import as_worker, scoped
from wireroom_rag.adapters.membership_sql import fill
from wireroom_rag.adapters.readers_sql import reread_for
from wireroom_rag.domain.collection import IdPage
from wireroom_rag.domain.file_batch import BatchEntry, BatchStatus, FileBatch, NewEntry
from wireroom_rag.domain.quota import Quotas
from wireroom_rag.domain.scope import Scope

_KEPT_DAYS = 30
# Of `file_batch_documents e`, whoever reads them.
_STATUS = """
    CASE WHEN m.document_id IS NULL OR v.state IS NULL THEN 'cancelled'
         WHEN v.state = 'indexed' THEN 'indexed'
         WHEN v.state IN ('rejected', 'failed') THEN 'failed'
         ELSE 'pending' END
"""
_ENTRIES = """
    FROM file_batches b
    JOIN file_batch_documents e ON e.tenant_id = b.tenant_id AND e.batch_id = b.id
    LEFT JOIN collection_documents m
      ON m.tenant_id = e.tenant_id AND m.collection_id = b.collection_id AND m.document_id = e.document_id
    LEFT JOIN documents d ON d.tenant_id = e.tenant_id AND d.id = e.document_id AND d.deleted_at IS NULL
    LEFT JOIN document_versions v ON v.tenant_id = d.tenant_id AND v.document_id = d.id AND v.version = d.latest_version
   WHERE b.tenant_id = :tenant_id AND b.id = :id
"""


class FileBatchStore:
    """Implements the port."""

    def __init__(self, database: Database, members: MemberStore, quotas: Quotas | None = None) -> None:
        self._database = database
        self._members = members
        self._quotas = quotas or Quotas()

    async def create(self, scope: Scope, collection_id: UUID, entries: Sequence[NewEntry]) -> FileBatch:
        """All documents are members, or none."""
        batch_id = new_id()
        keys = {"tenant_id": scope.tenant_id, "id": batch_id, "collection_id": collection_id}
        async with scoped(self._database, scope) as connection:
            await lock_for_members(connection, scope, collection_id)
            attributes = {entry.document_id: stored(entry.attributes) for entry in entries}
            await fill(connection, scope, collection_id, list(attributes), quotas=self._quotas, attributes=attributes)
            await connection.execute(
                text(
                    "DELETE FROM file_batches WHERE tenant_id = :tenant_id AND collection_id = :collection_id"
                    " AND created_at < now() - make_interval(days => :days)"
                ),
                {**keys, "days": _KEPT_DAYS},
            )
            await connection.execute(
                text(
                    "INSERT INTO file_batches (tenant_id, id, collection_id, owner_id)"
                    " VALUES (:tenant_id, :id, :collection_id, :owner_id)"
                ),
                {**keys, "owner_id": scope.user_id},
            )
            await connection.execute(
                text(
                    "INSERT INTO file_batch_documents (tenant_id, batch_id, document_id)"
                    " SELECT :tenant_id, :id, document_id FROM unnest(CAST(:ids AS uuid[])) AS new (document_id)"
                ),
                {**keys, "ids": [entry.document_id for entry in entries]},
            )
            for entry in entries:
                event = events_pb2.RagCollectionDocumentAdded(
                    collection_id=str(collection_id), document_id=str(entry.document_id)
                )
                await emit(connection, event, tenant_id=scope.tenant_id, subject=str(collection_id), actor=str(scope.user_id))
            return await _found(connection, scope, collection_id, batch_id)

    async def get(self, scope: Scope, collection_id: UUID, batch_id: UUID) -> FileBatch:
        """The batch."""
        async with scoped(self._database, scope) as connection:
            await visible_owner(connection, scope, collection_id)
            return await _found(connection, scope, collection_id, batch_id)

    async def cancel(self, scope: Scope, collection_id: UUID, batch_id: UUID) -> FileBatch:
        """Take those documents out of the collection that nobody has begun to read."""
        async with scoped(self._database, scope) as connection:
            await lock_for_members(connection, scope, collection_id)
            await _found(connection, scope, collection_id, batch_id)
            removed = await _take_out(connection, scope, collection_id, batch_id)
            await connection.execute(
                text("UPDATE file_batches SET cancelled = true WHERE tenant_id = :tenant_id AND id = :id"),
                {"tenant_id": scope.tenant_id, "id": batch_id},
            )
            await reread_for(connection, scope.tenant_id, collection_id, removed)
            for document_id in removed:
                event = events_pb2.RagCollectionDocumentRemoved(collection_id=str(collection_id), document_id=str(document_id))
                await emit(connection, event, tenant_id=scope.tenant_id, subject=str(collection_id), actor=str(scope.user_id))
            return await _found(connection, scope, collection_id, batch_id)

    async def list(
        self, scope: Scope, collection_id: UUID, batch_id: UUID, page: IdPage, status: BatchStatus | None
    ) -> tuple[Sequence[BatchEntry], bool]:
        """A page by document id, and whether there is more."""
        clause, values = page_clause(page, "e.document_id")
        # An empty status is all of them.
        statement = f"SELECT e.document_id, {_STATUS} AS status {_ENTRIES} AND (:status = '' OR {_STATUS} = :status) {clause}"
        async with scoped(self._database, scope) as connection:
            await visible_owner(connection, scope, collection_id)
            await _found(connection, scope, collection_id, batch_id)
            rows = await connection.execute(
                text(statement),
                {"tenant_id": scope.tenant_id, "id": batch_id, "status": status.value if status else "", **values},
            )
            found, more = cut(rows.all(), page)
        ids = [row.document_id for row in found]
        members, _ = (
            await self._members.list(scope, collection_id, IdPage(len(ids)), states=(), document_ids=ids) if ids else ((), 0)
        )
        by_id = {member.document.id: member for member in members}
        return [BatchEntry(row.document_id, BatchStatus(row.status), by_id.get(row.document_id)) for row in found], more


async def _take_out(connection: AsyncConnection, scope: Scope, collection_id: UUID, batch_id: UUID) -> list[UUID]:
    """As the service's own work: members that were never claimed by a worker leave the collection."""
    keys = {"tenant_id": scope.tenant_id, "id": batch_id, "collection_id": collection_id}
    await as_worker(connection)
    rows = await connection.execute(
        text(
            "SELECT d.id FROM file_batch_documents e JOIN documents d ON d.tenant_id = e.tenant_id AND d.id = e.document_id"
            " WHERE e.tenant_id = :tenant_id AND e.batch_id = :id ORDER BY d.id FOR NO KEY UPDATE OF d"
        ),
        keys,
    )
    locked = list(rows.scalars())
    removed = await connection.execute(
        text(
            "DELETE FROM collection_documents m USING documents d, document_versions v"
            " WHERE m.tenant_id = :tenant_id AND m.collection_id = :collection_id AND m.document_id = ANY(CAST(:ids AS uuid[]))"
            "   AND d.tenant_id = m.tenant_id AND d.id = m.document_id AND v.tenant_id = d.tenant_id AND v.document_id = d.id"
            "   AND v.version = d.latest_version AND v.state = 'received' AND v.attempts = 0 AND v.lease_token IS NULL"
            " RETURNING m.document_id"
        ),
        {**keys, "ids": locked},
    )
    return sorted(removed.scalars())


async def _found(connection: AsyncConnection, scope: Scope, collection_id: UUID, batch_id: UUID) -> FileBatch:
    """The batch of its owner, or for a manager; the rest of the transaction is the service's own work."""
    keys = {"tenant_id": scope.tenant_id, "id": batch_id}
    await as_worker(connection)
    row = (
        await connection.execute(
            text(
                "SELECT collection_id, created_at, cancelled FROM file_batches"
                " WHERE tenant_id = :tenant_id AND id = :id AND collection_id = :collection_id AND (owner_id = :user_id OR :manages)"
            ),
            {**keys, "collection_id": collection_id, "user_id": scope.user_id, "manages": scope.manages_collections},
        )
    ).one_or_none()
    if row is None:
        raise not_found("file batch")
    counted = await connection.execute(
        text(f"SELECT {_STATUS} AS status, count(*) AS documents {_ENTRIES} GROUP BY 1"),
        keys,
    )
    counts: dict[BatchStatus, Any] = {BatchStatus(entry.status): entry.documents for entry in counted}
    return FileBatch(batch_id, row.collection_id, row.created_at, row.cancelled, counts)
