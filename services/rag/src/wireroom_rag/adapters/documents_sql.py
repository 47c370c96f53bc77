"""Documents in PostgreSQL: registered, read, listed, deleted; always within one tenant."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from wireroom_common.db import Database
from wireroom_common.ids import new_id
from wireroom_common.outbox import emit
from wireroom_protos.events.v1 import events_pb2
from wireroom_rag.adapters import audit_trail
from wireroom_rag.adapters.index_sql import remove_chunks
from wireroom_rag.domain.document import Document, State, StoredFile
from wireroom_rag.domain.scope import Scope, SourceKind

# Of `documents d` and its newest `document_versions v`.
DOCUMENT_COLUMNS = """d.id, d.owner_id, d.name, v.version, v.media_type, v.size, v.sha256, v.state, v.reason_code, v.reason, v.pages,
           v.chunks, d.created_at, v.updated_at"""
_FROM = """
      FROM documents d
      JOIN document_versions v ON v.tenant_id = d.tenant_id AND v.document_id = d.id AND v.version = d.latest_version
     WHERE d.tenant_id = :tenant_id AND d.kind = 'document'
"""
_DOCUMENT = f"SELECT {DOCUMENT_COLUMNS} {_FROM}"


def document_of(row: Row[Any]) -> Document:
    """The document of a row with `DOCUMENT_COLUMNS`."""
    return Document(
        id=row.id,
        owner_id=row.owner_id,
        name=row.name,
        version=row.version,
        media_type=row.media_type,
        size=row.size,
        sha256=row.sha256,
        state=State(row.state),
        reason_code=row.reason_code,
        reason=row.reason,
        pages=row.pages,
        chunks=row.chunks,
        created_at=row.created_at,
        updated_at=row.updated_at,
    )


class DocumentStore:
    """Implements the ports `DocumentStore` and `BlobReferences`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def register(self, scope: Scope, file: StoredFile) -> tuple[Document, bool]:
        """The document of an uploaded file, and whether its blob is used.

        One owner's file names are unique: the same bytes again are the same version (processed again if that had failed), other bytes
        are the next version.
        """
        async with self._database.tenant(scope.tenant_id) as connection:
            names = {"tenant_id": scope.tenant_id, "owner_id": scope.user_id, "name": file.name}
            await connection.execute(
                text(
                    "INSERT INTO documents (tenant_id, id, kind, owner_id, name, latest_version)"
                    " VALUES (:tenant_id, :id, 'document', :owner_id, :name, 1)"
                    " ON CONFLICT (tenant_id, owner_id, name) WHERE kind = 'document' DO NOTHING"
                ),
                {**names, "id": new_id()},
            )
            document_id = (
                await connection.execute(
                    text(
                        "SELECT id FROM documents WHERE tenant_id = :tenant_id AND owner_id = :owner_id AND name = :name"
                        " AND kind = 'document' FOR UPDATE"
                    ),
                    names,
                )
            ).scalar_one()
            current = await self._find(connection, scope.tenant_id, document_id)
            if current is not None and current.sha256 == file.sha256:
                if current.state is State.FAILED:
                    await self._process_again(connection, scope.tenant_id, current)
                    current = await self._find(connection, scope.tenant_id, document_id)
                return _existing(current), False
            await self._add_version(connection, scope, document_id, current.version + 1 if current else 1, file)
            return _existing(await self._find(connection, scope.tenant_id, document_id)), True

    async def get(self, scope: Scope, document_id: UUID) -> Document | None:
        """The document with its newest version."""
        if SourceKind.DOCUMENT not in scope.kinds:
            return None
        async with self._database.tenant(scope.tenant_id) as connection:
            return await self._find(connection, scope.tenant_id, document_id)

    async def content(self, scope: Scope, document_id: UUID) -> tuple[Document, str] | None:
        """The document and the key of its newest version's blob."""
        if SourceKind.DOCUMENT not in scope.kinds:
            return None
        async with self._database.tenant(scope.tenant_id) as connection:
            row = (
                await connection.execute(
                    text(f"SELECT {DOCUMENT_COLUMNS}, v.blob_key {_FROM} AND d.id = :id"),
                    {"tenant_id": scope.tenant_id, "id": document_id},
                )
            ).one_or_none()
        return (document_of(row), row.blob_key) if row is not None else None

    async def list(self, scope: Scope, *, limit: int, behind: UUID | None, ascending: bool = False) -> Sequence[Document]:
        """At most `limit` documents behind that one, newest first, or oldest first if `ascending`."""
        if SourceKind.DOCUMENT not in scope.kinds:
            return []
        async with self._database.tenant(scope.tenant_id) as connection:
            rows = await connection.execute(
                text(
                    f"{_DOCUMENT} AND (CAST(:behind AS uuid) IS NULL OR d.id {'>' if ascending else '<'} :behind)"
                    f" ORDER BY d.id {'ASC' if ascending else 'DESC'} LIMIT :limit"
                ),
                {"tenant_id": scope.tenant_id, "behind": behind, "limit": limit},
            )
            return [document_of(row) for row in rows]

    async def delete(self, scope: Scope, document_id: UUID) -> Sequence[str]:
        """Delete everything but the blobs, whose keys are returned; the event leaves with it."""
        async with self._database.tenant(scope.tenant_id) as connection:
            keys = {"tenant_id": scope.tenant_id, "id": document_id}
            await connection.execute(text("SELECT 1 FROM documents WHERE tenant_id = :tenant_id AND id = :id FOR UPDATE"), keys)
            blobs = await connection.execute(
                text(
                    "SELECT blob_key FROM document_versions WHERE tenant_id = :tenant_id AND document_id = :id AND blob_key IS NOT NULL"
                ),
                keys,
            )
            blob_keys = list(blobs.scalars())
            await remove_chunks(connection, scope.tenant_id, [document_id])
            deleted = await connection.execute(text("DELETE FROM documents WHERE tenant_id = :tenant_id AND id = :id"), keys)
            if deleted.rowcount:
                await emit(
                    connection,
                    events_pb2.RagDocumentDeleted(document_id=str(document_id)),
                    tenant_id=scope.tenant_id,
                    subject=str(document_id),
                    actor=str(scope.user_id),
                )
                await audit_trail.record(
                    connection,
                    "document.deleted",
                    tenant_id=scope.tenant_id,
                    subject=str(document_id),
                    actor=str(scope.user_id),
                )
            return blob_keys

    async def referenced_blobs(self, keys: Sequence[str]) -> set[str]:
        """Which of the blobs belong to a version of any tenant."""
        async with self._database.system() as connection:
            found = await connection.execute(
                text("SELECT blob_key FROM document_versions WHERE blob_key = ANY(CAST(:keys AS text[]))"), {"keys": list(keys)}
            )
            return set(found.scalars())

    async def _find(self, connection: AsyncConnection, tenant_id: UUID, document_id: UUID) -> Document | None:
        row = (
            await connection.execute(text(f"{_DOCUMENT} AND d.id = :id"), {"tenant_id": tenant_id, "id": document_id})
        ).one_or_none()
        return document_of(row) if row is not None else None

    async def _process_again(self, connection: AsyncConnection, tenant_id: UUID, document: Document) -> None:
        await connection.execute(
            text(
                "UPDATE document_versions SET state = 'received', reason_code = '', reason = '', attempts = 0, next_attempt_at = now(),"
                " created_at = now(), updated_at = now() WHERE tenant_id = :tenant_id AND document_id = :id AND version = :version"
            ),
            {"tenant_id": tenant_id, "id": document.id, "version": document.version},
        )

    async def _add_version(
        self, connection: AsyncConnection, scope: Scope, document_id: UUID, version: int, file: StoredFile
    ) -> None:
        keys = {"tenant_id": scope.tenant_id, "id": document_id, "version": version}
        await connection.execute(
            text(
                "INSERT INTO document_versions (tenant_id, document_id, version, kind, title, media_type, size, sha256, blob_key)"
                " VALUES (:tenant_id, :id, :version, 'document', :name, :media_type, :size, :sha256, :blob_key)"
            ),
            {
                **keys,
                "name": file.name,
                "media_type": file.media_type,
                "size": file.size,
                "sha256": file.sha256,
                "blob_key": file.blob_key,
            },
        )
        await connection.execute(
            text("UPDATE documents SET latest_version = :version WHERE tenant_id = :tenant_id AND id = :id"), keys
        )
        await emit(
            connection,
            events_pb2.RagDocumentReceived(
                document_id=str(document_id),
                version=version,
                owner_id=str(scope.user_id),
                media_type=file.media_type,
                size=file.size,
                sha256=file.sha256,
            ),
            tenant_id=scope.tenant_id,
            subject=str(document_id),
            actor=str(scope.user_id),
        )


def _existing(document: Document | None) -> Document:
    if document is None:
        msg = "A document that was just written is not there."
        raise LookupError(msg)
    return document
