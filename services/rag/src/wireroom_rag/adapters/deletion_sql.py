"""Deletion in steps: a tombstone, after which nobody finds the document, then what was made of it, then its row."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from wireroom_common.db import Database
from wireroom_common.errors import ErrorKind, WireroomError, not_found
from wireroom_common.outbox import emit
from wireroom_protos.events.v1 import events_pb2
from wireroom_rag.adapters import audit_trail
from wireroom_rag.adapters.connections import as_worker, scoped, worker
from wireroom_rag.adapters.index_sql import remove_chunks
from wireroom_rag.adapters.kept_vectors_sql import forget_vectors_of_documents
from wireroom_rag.domain.access import document_not_owned
from wireroom_rag.domain.erasure import Tombstone, item_hash
from wireroom_rag.domain.scope import Scope

_GONE = "tenant_id = :tenant_id AND id = :id AND deleted_at IS NOT NULL"


async def bury(
    connection: AsyncConnection, tenant_id: UUID, document_ids: Sequence[UUID], erasure_id: UUID | None = None
) -> None:
    """Tombstones for (locked) documents, as the service's own work: from the commit on no query finds them and no quota counts them."""
    values = {"tenant_id": tenant_id, "ids": list(document_ids), "erasure_id": erasure_id}
    await connection.execute(
        text(
            "UPDATE documents SET deleted_at = now(), readers = '{}', erasure_id = COALESCE(CAST(:erasure_id AS uuid), erasure_id)"
            " WHERE tenant_id = :tenant_id AND id = ANY(CAST(:ids AS uuid[])) AND deleted_at IS NULL"
        ),
        values,
    )
    await connection.execute(
        text("DELETE FROM collection_documents WHERE tenant_id = :tenant_id AND document_id = ANY(CAST(:ids AS uuid[]))"), values
    )


class DeletionStore:
    """Implements `Tombstones`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def bury(self, scope: Scope, document_id: UUID, *, may_delete_all: bool) -> Tombstone:
        """Nobody finds the document from now on. NOT_FOUND for what the caller cannot read, FORBIDDEN for another's."""
        async with scoped(self._database, scope) as connection:
            owner_id = (
                await connection.execute(
                    text(
                        "SELECT owner_id FROM documents WHERE tenant_id = :tenant_id AND id = :id AND kind = 'document' FOR UPDATE"
                    ),
                    {"tenant_id": scope.tenant_id, "id": document_id},
                )
            ).scalar_one_or_none()
            if owner_id is None:
                raise not_found("document")
            if owner_id != scope.user_id and not may_delete_all:
                raise document_not_owned("delete")
            await as_worker(connection)
            await bury(connection, scope.tenant_id, [document_id])
            await told(connection, scope.tenant_id, document_id, str(scope.user_id))
        return Tombstone(scope.tenant_id, document_id)

    async def buried(self, limit: int, *, older_than: timedelta = timedelta(0)) -> Sequence[Tombstone]:
        """Documents of all tenants whose deletion is not complete, oldest first."""
        async with self._database.system() as connection:
            rows = await connection.execute(
                text(
                    "SELECT tenant_id, id FROM documents WHERE deleted_at < now() - CAST(:age AS interval) ORDER BY deleted_at LIMIT :limit"
                ),
                {"age": older_than, "limit": limit},
            )
            return [Tombstone(row.tenant_id, row.id) for row in rows]

    async def remove_index(self, tombstone: Tombstone) -> None:
        """Vectors, passages and postings."""
        values = {"tenant_id": tombstone.tenant_id, "id": tombstone.document_id}
        async with worker(self._database, tombstone.tenant_id) as connection:
            row = (
                await connection.execute(text(f"SELECT erasure_id FROM documents WHERE {_GONE} FOR UPDATE"), values)  # noqa: S608 - a constant of this file
            ).one_or_none()
            if row is None:
                return
            if row.erasure_id is not None:
                await connection.execute(
                    text(
                        "UPDATE erasures SET chunks = chunks + (SELECT count(*) FROM chunks"
                        " WHERE tenant_id = :tenant_id AND document_id = :id) WHERE tenant_id = :tenant_id AND id = :erasure_id"
                    ),
                    {**values, "erasure_id": row.erasure_id},
                )
            await forget_vectors_of_documents(connection, tombstone.tenant_id, [tombstone.document_id])
            await remove_chunks(connection, tombstone.tenant_id, [tombstone.document_id])

    async def blobs(self, tombstone: Tombstone) -> Sequence[str]:
        """The keys of its files."""
        async with worker(self._database, tombstone.tenant_id) as connection:
            keys = await connection.execute(
                text(
                    "SELECT v.blob_key FROM document_versions v JOIN documents d ON d.tenant_id = v.tenant_id AND d.id = v.document_id"
                    " WHERE d.tenant_id = :tenant_id AND d.id = :id AND d.deleted_at IS NOT NULL AND v.blob_key IS NOT NULL"
                ),
                {"tenant_id": tombstone.tenant_id, "id": tombstone.document_id},
            )
            return list(keys.scalars())

    async def remove(self, tombstone: Tombstone) -> None:
        """The row and everything that hangs on it; an erasure's counts change with it, once."""
        values = {"tenant_id": tombstone.tenant_id, "id": tombstone.document_id}
        async with worker(self._database, tombstone.tenant_id) as connection:
            row = (
                await connection.execute(text(f"SELECT erasure_id, kind FROM documents WHERE {_GONE} FOR UPDATE"), values)  # noqa: S608 - a constant of this file
            ).one_or_none()
            if row is None:
                return
            if row.erasure_id is not None:
                await _count(connection, tombstone, row.erasure_id, row.kind)
            # A chunk that was written since then would be lost to the statistics.
            await remove_chunks(connection, tombstone.tenant_id, [tombstone.document_id])
            await _require_no_vectors(connection, tombstone)
            await connection.execute(text(f"DELETE FROM documents WHERE {_GONE}"), values)  # noqa: S608 - a constant of this file


async def _require_no_vectors(connection: AsyncConnection, tombstone: Tombstone) -> None:
    """In another store; a document's row is what a receipt waits for. They go with the next run."""
    left = await connection.execute(
        text("SELECT 1 FROM vector_removals WHERE tenant_id = :tenant_id AND document_id = :id LIMIT 1"),
        {"tenant_id": tombstone.tenant_id, "id": tombstone.document_id},
    )
    if left.one_or_none() is not None:
        raise WireroomError(
            ErrorKind.UNAVAILABLE, "vectors_left", "Vectors of the document have to be removed first.", retry_after=1
        )


async def told(connection: AsyncConnection, tenant_id: UUID, document_id: UUID, actor: str, **details: str) -> None:
    """The event and the entry of the audit trail."""
    subject = str(document_id)
    await emit(connection, events_pb2.RagDocumentDeleted(document_id=subject), tenant_id=tenant_id, subject=subject, actor=actor)
    await audit_trail.record(connection, "document.deleted", tenant_id=tenant_id, subject=subject, actor=actor, **details)


async def _count(connection: AsyncConnection, tombstone: Tombstone, erasure_id: UUID, kind: str) -> None:
    values = {"tenant_id": tombstone.tenant_id, "id": tombstone.document_id, "erasure_id": erasure_id}
    versions = (
        await connection.execute(
            text(
                "SELECT version, sha256, size, blob_key FROM document_versions WHERE tenant_id = :tenant_id AND document_id = :id"
            ),
            values,
        )
    ).all()
    await connection.execute(
        text(
            "UPDATE erasures SET documents = documents + :documents, articles = articles + :articles, versions = versions + :versions,"
            " blobs = blobs + :blobs, bytes = bytes + :bytes WHERE tenant_id = :tenant_id AND id = :erasure_id"
        ),
        {
            **values,
            "documents": int(kind == "document"),
            "articles": int(kind == "article"),
            "versions": len(versions),
            "blobs": sum(1 for version in versions if version.blob_key is not None),
            "bytes": sum(version.size for version in versions),
        },
    )
    await connection.execute(
        text(
            "INSERT INTO erasure_items (tenant_id, erasure_id, hash)"
            " SELECT :tenant_id, :erasure_id, hash FROM unnest(CAST(:hashes AS text[])) AS gone (hash) ON CONFLICT DO NOTHING"
        ),
        {**values, "hashes": [item_hash(tombstone.document_id, version.version, version.sha256) for version in versions]},
    )
