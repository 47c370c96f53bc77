"""The documents of collections in PostgreSQL."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from wireroom_common.db import Database
from wireroom_common.errors import not_found
from wireroom_common.outbox import emit
from wireroom_protos.events.v1 import events_pb2
from wireroom_rag.adapters.collection_locks import lock_for_members, visible_owner
from wireroom_rag.adapters.collections_sql import cut, page_clause, stored
from wireroom_rag.adapters.connections import as_worker, scoped, state_readers
from wireroom_rag.adapters.documents_sql import DOCUMENT_COLUMNS, document_of
from wireroom_rag.adapters.membership_sql import fill
from wireroom_rag.adapters.readers_sql import reread_for
from wireroom_rag.domain.collection import IdPage, Member, Note
from wireroom_rag.domain.document import State
from wireroom_rag.domain.quota import Quotas
from wireroom_rag.domain.scope import Scope

_MEMBERS = f"""
    SELECT {DOCUMENT_COLUMNS}, CAST(m.attributes AS text) AS attributes, m.added_at
      FROM collection_documents m
      JOIN documents d ON d.tenant_id = m.tenant_id AND d.id = m.document_id
      JOIN document_versions v ON v.tenant_id = d.tenant_id AND v.document_id = d.id AND v.version = d.latest_version
     WHERE m.tenant_id = :tenant_id AND m.collection_id = :collection_id
"""  # noqa: S608 - constants of this service


class MemberStore:
    """Implements the port."""

    def __init__(self, database: Database, quotas: Quotas | None = None) -> None:
        self._database = database
        self._quotas = quotas or Quotas()

    async def add(self, scope: Scope, collection_id: UUID, document_id: UUID, attributes: dict[str, Note]) -> Member:
        """The member, new or with its attributes replaced."""
        async with scoped(self._database, scope) as connection:
            await lock_for_members(connection, scope, collection_id)
            given = {document_id: stored(attributes)}
            await fill(connection, scope, collection_id, [document_id], quotas=self._quotas, attributes=given)
            await state_readers(connection, scope)
            event = events_pb2.RagCollectionDocumentAdded(collection_id=str(collection_id), document_id=str(document_id))
            await emit(connection, event, tenant_id=scope.tenant_id, subject=str(collection_id), actor=str(scope.user_id))
            return await self._found(connection, scope, collection_id, document_id)

    async def remove(self, scope: Scope, collection_id: UUID, document_id: UUID) -> None:
        """The document stays."""
        async with scoped(self._database, scope) as connection:
            await lock_for_members(connection, scope, collection_id)
            await as_worker(connection)
            await connection.execute(
                text("SELECT 1 FROM documents WHERE tenant_id = :tenant_id AND id = :document_id FOR NO KEY UPDATE"),
                _keys(scope, collection_id, document_id),
            )
            removed = await connection.execute(
                text(
                    "DELETE FROM collection_documents"
                    " WHERE tenant_id = :tenant_id AND collection_id = :collection_id AND document_id = :document_id"
                ),
                _keys(scope, collection_id, document_id),
            )
            if not removed.rowcount:
                raise not_found("document")
            await reread_for(connection, scope.tenant_id, collection_id, [document_id])
            event = events_pb2.RagCollectionDocumentRemoved(collection_id=str(collection_id), document_id=str(document_id))
            await emit(connection, event, tenant_id=scope.tenant_id, subject=str(collection_id), actor=str(scope.user_id))

    async def get(self, scope: Scope, collection_id: UUID, document_id: UUID) -> Member:
        """The member."""
        async with scoped(self._database, scope) as connection:
            await visible_owner(connection, scope, collection_id)
            return await self._found(connection, scope, collection_id, document_id)

    async def list(
        self, scope: Scope, collection_id: UUID, page: IdPage, *, states: Sequence[State], document_ids: Sequence[UUID]
    ) -> tuple[Sequence[Member], bool]:
        """A page by document id, of these states and documents (empty: of all), and whether there are more."""
        clause, values = page_clause(page, "m.document_id")
        statement = _MEMBERS
        if states:
            statement += " AND v.state = ANY(CAST(:states AS text[]))"
            values["states"] = [state.value for state in states]
        if document_ids:
            statement += " AND m.document_id = ANY(CAST(:ids AS uuid[]))"
            values["ids"] = list(document_ids)
        async with scoped(self._database, scope) as connection:
            await visible_owner(connection, scope, collection_id)
            rows = (
                await connection.execute(
                    text(statement + clause), {"tenant_id": scope.tenant_id, "collection_id": collection_id, **values}
                )
            ).all()
        return cut([_member(collection_id, row) for row in rows], page)

    async def _found(self, connection: AsyncConnection, scope: Scope, collection_id: UUID, document_id: UUID) -> Member:
        row = (
            await connection.execute(
                text(f"{_MEMBERS} AND m.document_id = :document_id"), _keys(scope, collection_id, document_id)
            )
        ).one_or_none()
        if row is None:
            raise not_found("document")
        return _member(collection_id, row)


def _keys(scope: Scope, collection_id: UUID, document_id: UUID) -> dict[str, UUID]:
    return {"tenant_id": scope.tenant_id, "collection_id": collection_id, "document_id": document_id}


def _member(collection_id: UUID, row: Row[Any]) -> Member:
    return Member(collection_id, document_of(row), json.loads(row.attributes), row.added_at)
