"""What a user takes along of documents and collections, read in pages of short transactions."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import text

from wireroom_common.db import Database
from wireroom_rag.adapters.connections import scoped
from wireroom_rag.domain.scope import Scope

_PAGE = 100
_DOCUMENTS = """
    SELECT id, name, access, created_at, (SELECT json_agg(v ORDER BY v.version) FROM (
        SELECT version, media_type, size, sha256, state, reason_code, pages, chunks, created_at FROM document_versions
         WHERE tenant_id = :tenant_id AND document_id = d.id) AS v) AS versions
      FROM documents d WHERE tenant_id = :tenant_id AND owner_id = :user_id AND kind = 'document' AND deleted_at IS NULL
"""
_COLLECTIONS = """
    SELECT id, name, description, visibility, metadata, reader_grants, editor_grants, created_at, updated_at,
           ARRAY(SELECT document_id FROM collection_documents m
                  WHERE m.tenant_id = :tenant_id AND m.collection_id = c.id ORDER BY document_id) AS documents
      FROM collections c WHERE tenant_id = :tenant_id AND owner_id = :user_id
"""


@dataclass(frozen=True)
class ExportedRow:
    """A JSON object of a list; `document_id` and `name` of a document whose original can be asked for."""

    list: str
    json: str
    document_id: UUID | None = None
    name: str = ""


class ExportStore:
    """Reads what the scope's user owns; every row belongs to that user."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def rows(self, scope: Scope) -> AsyncGenerator[ExportedRow, None]:
        """Documents, then collections."""
        for name, statement in (("documents", _DOCUMENTS), ("collections", _COLLECTIONS)):
            after: UUID | None = None
            while True:
                async with scoped(self._database, scope) as connection:
                    rows = (
                        await connection.execute(
                            text(
                                f"SELECT id, name, CAST(row_to_json(entry) AS text) AS entry FROM ({statement}"  # noqa: S608 - constants
                                " AND (CAST(:after AS uuid) IS NULL OR id > :after) ORDER BY id LIMIT :limit) AS entry"
                            ),
                            {"tenant_id": scope.tenant_id, "user_id": scope.user_id, "after": after, "limit": _PAGE},
                        )
                    ).all()
                for row in rows:
                    is_document = name == "documents"
                    yield ExportedRow(name, row.entry, row.id if is_document else None, row.name if is_document else "")
                if len(rows) < _PAGE:
                    break
                after = rows[-1].id
