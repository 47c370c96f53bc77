"""Access lists of collections and the access of documents."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from wireroom_common.db import Database
from wireroom_common.errors import not_found
from wireroom_common.outbox import emit
from wireroom_protos.events.v1 import events_pb2
from wireroom_rag.adapters import audit_trail
from wireroom_rag.adapters.collection_locks import VISIBLE, lock_for_change, viewer
from wireroom_rag.adapters.connections import as_worker, scoped
from wireroom_rag.adapters.readers_sql import lock_members, reread
from wireroom_rag.domain.access import Access, Acl, Grants, document_not_owned
from wireroom_rag.domain.collection import Visibility
from wireroom_rag.domain.scope import Scope

_ACL = "SELECT c.owner_id, c.visibility, c.reader_grants, c.editor_grants, c.acl_version FROM collections c"


class AccessStore:
    """Implements `AccessStore`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def acl(self, scope: Scope, collection_id: UUID) -> Acl:
        """The list, for whoever sees the collection."""
        async with scoped(self._database, scope) as connection:
            return _acl(await self._row(connection, scope, collection_id))

    async def set_acl(self, scope: Scope, collection_id: UUID, *, public: bool, readers: Grants, editors: Grants) -> Acl:
        """Replace the list; what it shares is readable, or not, from this transaction on."""
        async with scoped(self._database, scope) as connection:
            await lock_for_change(connection, scope, collection_id)
            members = await lock_members(connection, scope.tenant_id, collection_id)
            await connection.execute(
                text(
                    "UPDATE collections SET visibility = :visibility, reader_grants = CAST(:readers AS text[]),"
                    " editor_grants = CAST(:editors AS text[]), acl_version = acl_version + 1, updated_at = now()"
                    " WHERE tenant_id = :tenant_id AND id = :id"
                ),
                {
                    "tenant_id": scope.tenant_id,
                    "id": collection_id,
                    "visibility": (Visibility.TENANT if public else Visibility.PRIVATE).value,
                    "readers": readers.tokens(),
                    "editors": editors.tokens(),
                },
            )
            changed = await reread(connection, scope.tenant_id, members)
            acl = _acl(await self._row(connection, scope, collection_id))
            event = events_pb2.RagAclChanged(collection_id=str(collection_id), acl_version=acl.version, documents=changed)
            await emit(connection, event, tenant_id=scope.tenant_id, subject=str(collection_id), actor=str(scope.user_id))
            await audit_trail.record(
                connection,
                "collection.acl_changed",
                tenant_id=scope.tenant_id,
                subject=str(collection_id),
                actor=str(scope.user_id),
                public=str(public).lower(),
                readers=", ".join(readers.tokens()),
                editors=", ".join(editors.tokens()),
            )
            return acl

    async def set_document_access(self, scope: Scope, document_id: UUID, access: Access) -> None:
        """Say who reads the document. NOT_FOUND for what the caller cannot read, FORBIDDEN for another's."""
        async with scoped(self._database, scope) as connection:
            row = (
                await connection.execute(
                    text(
                        "SELECT owner_id, access FROM documents WHERE tenant_id = :tenant_id AND id = :id AND kind = 'document'"
                        " FOR NO KEY UPDATE"
                    ),
                    {"tenant_id": scope.tenant_id, "id": document_id},
                )
            ).one_or_none()
            if row is None:
                raise not_found("document")
            if row.owner_id != scope.user_id and not scope.manages_collections:
                raise document_not_owned("change who reads")
            if row.access != access:
                await change_access(connection, scope, document_id, access, before=row.access)

    async def _row(self, connection: AsyncConnection, scope: Scope, collection_id: UUID) -> Row[Any]:
        row = (
            await connection.execute(text(f"{_ACL} WHERE {VISIBLE} AND c.id = :id"), {**viewer(scope), "id": collection_id})
        ).one_or_none()
        if row is None:
            raise not_found("collection")
        return row


async def change_access(
    connection: AsyncConnection, scope: Scope, document_id: UUID, access: Access, *, before: str = ""
) -> None:
    """Of a locked document that the caller may change; from here on the transaction is the service's own work."""
    await as_worker(connection)
    await connection.execute(
        text("UPDATE documents SET access = :access WHERE tenant_id = :tenant_id AND id = :id"),
        {"tenant_id": scope.tenant_id, "id": document_id, "access": access.value},
    )
    if access is Access.COLLECTIONS:
        await _leave_others(connection, scope, document_id)
    changed = await reread(connection, scope.tenant_id, [document_id])
    await emit(
        connection,
        events_pb2.RagAclChanged(document_id=str(document_id), documents=changed),
        tenant_id=scope.tenant_id,
        subject=str(document_id),
        actor=str(scope.user_id),
    )
    await audit_trail.record(
        connection,
        "document.access_changed",
        tenant_id=scope.tenant_id,
        subject=str(document_id),
        actor=str(scope.user_id),
        access=access.value,
        access_before=before,
    )


async def _leave_others(connection: AsyncConnection, scope: Scope, document_id: UUID) -> None:
    """Take the document out of collections that neither its owner nor the caller may fill.

    Whoever reads a document may put it into a collection of his own, as long as that decides nothing. From now on it would.
    """
    rows = await connection.execute(
        text(
            "DELETE FROM collection_documents m USING collections c, documents d"
            " WHERE m.tenant_id = :tenant_id AND m.document_id = :id AND c.tenant_id = m.tenant_id AND c.id = m.collection_id"
            "   AND d.tenant_id = m.tenant_id AND d.id = m.document_id AND c.owner_id NOT IN (d.owner_id, :user_id)"
            "   AND NOT c.editor_grants && (CAST(:tokens AS text[]) || ('user:' || CAST(d.owner_id AS text)))"
            " RETURNING m.collection_id"
        ),
        {"tenant_id": scope.tenant_id, "id": document_id, "user_id": scope.user_id, "tokens": list(scope.readers)},
    )
    for collection_id in rows.scalars().all():
        event = events_pb2.RagCollectionDocumentRemoved(collection_id=str(collection_id), document_id=str(document_id))
        await emit(connection, event, tenant_id=scope.tenant_id, subject=str(collection_id), actor=str(scope.user_id))


def _acl(row: Row[Any]) -> Acl:
    return Acl(
        row.owner_id,
        row.visibility == Visibility.TENANT,
        Grants.of_tokens(row.reader_grants),
        Grants.of_tokens(row.editor_grants),
        row.acl_version,
    )
