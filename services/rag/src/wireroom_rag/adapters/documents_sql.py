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
from wireroom_rag.adapters.access_sql import change_access
from wireroom_rag.adapters.connections import scoped
from wireroom_rag.adapters.erased_owners import refuse_erased
from wireroom_rag.adapters.membership_sql import fill, lock_filled, require_room_for, require_room_in
from wireroom_rag.domain.access import Access
from wireroom_rag.domain.document import Document, Placement, State, StoredFile
from wireroom_rag.domain.quota import Quotas
from wireroom_rag.domain.scope import Scope, SourceKind

# Of `documents d` and its newest `document_versions v`.
DOCUMENT_COLUMNS = """d.id, d.owner_id, d.name, v.version, v.media_type, v.size, v.sha256, v.state, v.reason_code, v.reason, v.pages,
           v.chunks, d.created_at, v.updated_at, d.access"""
_FROM = """
      FROM documents d
      JOIN document_versions v ON v.tenant_id = d.tenant_id AND v.document_id = d.id AND v.version = d.latest_version
     WHERE d.tenant_id = :tenant_id AND d.kind = 'document' AND d.deleted_at IS NULL
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
        access=Access(row.access),
    )


class DocumentStore:
    """Implements the ports `DocumentStore` and `BlobReferences`."""

    def __init__(self, database: Database, *, access: Access = Access.TENANT, quotas: Quotas | None = None) -> None:
        self._database = database
        self._access = access
        self._quotas = quotas or Quotas()

    async def register(self, scope: Scope, file: StoredFile, placement: Placement | None = None) -> tuple[Document, bool]:
        """The document of an uploaded file, and whether its blob is used.

        One owner's file names are unique: the same bytes again are the same version (processed again if that had failed), other bytes
        are the next version. CONFLICT, and nothing kept, when there is no room for it.
        """
        placement = placement or Placement()
        async with scoped(self._database, scope) as connection:
            await refuse_erased(connection, scope.tenant_id, scope.user_id)
            collections = await lock_filled(connection, scope, file.name, placement.collection_id)
            names = {"tenant_id": scope.tenant_id, "owner_id": scope.user_id, "name": file.name}
            await connection.execute(
                text(
                    "INSERT INTO documents (tenant_id, id, kind, owner_id, name, latest_version, access)"
                    " VALUES (:tenant_id, :id, 'document', :owner_id, :name, 1, :access)"
                    " ON CONFLICT (tenant_id, owner_id, name) WHERE kind = 'document' AND deleted_at IS NULL DO NOTHING"
                ),
                {**names, "id": new_id(), "access": self._access_of(placement).value},
            )
            document_id = (
                await connection.execute(
                    text(
                        "SELECT id FROM documents WHERE tenant_id = :tenant_id AND owner_id = :owner_id AND name = :name"
                        " AND kind = 'document' AND deleted_at IS NULL FOR UPDATE"
                    ),
                    names,
                )
            ).scalar_one()
            current = await self._find(connection, scope.tenant_id, document_id)
            await self._place(connection, scope, document_id, placement, current)
            if current is not None and current.sha256 == file.sha256:
                if current.state is State.FAILED:
                    await self._process_again(connection, scope.tenant_id, current)
                    current = await self._find(connection, scope.tenant_id, document_id)
                return _existing(current), False
            await self._add_version(connection, scope, document_id, current.version + 1 if current else 1, file)
            await require_room_for(connection, scope, self._quotas)
            for collection_id in collections:
                await require_room_in(connection, scope.tenant_id, collection_id, self._quotas)
            return _existing(await self._find(connection, scope.tenant_id, document_id)), True

    def _access_of(self, placement: Placement) -> Access:
        if placement.access is not None:
            return placement.access
        return Access.COLLECTIONS if placement.collection_id is not None else self._access

    async def _place(
        self, connection: AsyncConnection, scope: Scope, document_id: UUID, placement: Placement, current: Document | None
    ) -> None:
        """What the upload says of who reads it. The caller owns the document."""
        changed = current is not None and placement.access not in {None, current.access}
        if changed and placement.access is not None:
            await change_access(connection, scope, document_id, placement.access)
        if placement.collection_id is not None:
            await fill(connection, scope, placement.collection_id, [document_id], quotas=self._quotas)

    async def get(self, scope: Scope, document_id: UUID) -> Document | None:
        """The document with its newest version."""
        if SourceKind.DOCUMENT not in scope.kinds:
            return None
        async with scoped(self._database, scope) as connection:
            return await self._find(connection, scope.tenant_id, document_id)

    async def content(self, scope: Scope, document_id: UUID) -> tuple[Document, str] | None:
        """The document and the key of its newest version's blob."""
        if SourceKind.DOCUMENT not in scope.kinds:
            return None
        async with scoped(self._database, scope) as connection:
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
        async with scoped(self._database, scope) as connection:
            rows = await connection.execute(
                text(
                    f"{_DOCUMENT} AND (CAST(:behind AS uuid) IS NULL OR d.id {'>' if ascending else '<'} :behind)"
                    f" ORDER BY d.id {'ASC' if ascending else 'DESC'} LIMIT :limit"
                ),
                {"tenant_id": scope.tenant_id, "behind": behind, "limit": limit},
            )
            return [document_of(row) for row in rows]

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
