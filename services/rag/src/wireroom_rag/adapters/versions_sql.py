"""The kept versions of a document, and the limits of collections."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from wireroom_common.db import Database
from wireroom_common.errors import not_found
from wireroom_rag.adapters import audit_trail
from wireroom_rag.adapters.collection_locks import lock_for_change, visible_owner
from wireroom_rag.adapters.connections import as_worker, scoped
from wireroom_rag.adapters.membership_sql import stored_in
from wireroom_rag.domain.document import DocumentVersion, State
from wireroom_rag.domain.quota import CollectionLimits, Quotas
from wireroom_rag.domain.scope import Scope


class VersionReader:
    """Implements `Versions`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def list(self, scope: Scope, document_id: UUID, *, limit: int, before: int) -> Sequence[DocumentVersion]:
        """At most `limit` versions below `before` (0: all), newest first. NOT_FOUND for a document that the caller cannot read."""
        keys = {"tenant_id": scope.tenant_id, "id": document_id}
        async with scoped(self._database, scope) as connection:
            document = (
                await connection.execute(
                    text("SELECT indexed_version FROM documents WHERE tenant_id = :tenant_id AND id = :id AND kind = 'document'"),
                    keys,
                )
            ).one_or_none()
            if document is None:
                raise not_found("document")
            rows = await connection.execute(
                text(
                    "SELECT version, media_type, size, sha256, state, reason_code, reason, pages, chunks, created_at"
                    "  FROM document_versions WHERE tenant_id = :tenant_id AND document_id = :id AND (:before = 0 OR version < :before)"
                    " ORDER BY version DESC LIMIT :limit"
                ),
                {**keys, "before": before, "limit": limit},
            )
            return [
                DocumentVersion(
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
                    served=row.version == document.indexed_version,
                )
                for row in rows
            ]


class LimitStore:
    """Implements `CollectionLimitStore`."""

    def __init__(self, database: Database, quotas: Quotas) -> None:
        self._database = database
        self._quotas = quotas

    async def get(self, scope: Scope, collection_id: UUID) -> CollectionLimits:
        """For whoever sees the collection."""
        async with scoped(self._database, scope) as connection:
            await visible_owner(connection, scope, collection_id)
            return await self._limits(connection, scope, collection_id)

    async def set(self, scope: Scope, collection_id: UUID, limits: CollectionLimits) -> CollectionLimits:
        """Replace them; what is over a new quota stays, and nothing is added to it."""
        async with scoped(self._database, scope) as connection:
            await lock_for_change(connection, scope, collection_id)
            before = await self._limits(connection, scope, collection_id)
            limits.require_allowed(before, manages=scope.manages_collections)
            await connection.execute(
                text(
                    "UPDATE collections SET max_documents = :max_documents, max_bytes = :max_bytes, retention_days = :retention_days,"
                    " expires_days = :expires_days, updated_at = now(), last_active_at = now() WHERE tenant_id = :tenant_id AND id = :id"
                ),
                {
                    "tenant_id": scope.tenant_id,
                    "id": collection_id,
                    "max_documents": limits.max_documents,
                    "max_bytes": limits.max_bytes,
                    "retention_days": limits.retention_days,
                    "expires_days": limits.expires_days,
                },
            )
            await audit_trail.record(
                connection,
                "collection.limits_changed",
                tenant_id=scope.tenant_id,
                subject=str(collection_id),
                actor=str(scope.user_id),
                **{name: str(value) for name, value in limits.settings().items()},
            )
            return await self._limits(connection, scope, collection_id)

    async def _limits(self, connection: AsyncConnection, scope: Scope, collection_id: UUID) -> CollectionLimits:
        row = (
            await connection.execute(
                text(
                    "SELECT owner_id, max_documents, max_bytes, retention_days, expires_days FROM collections"
                    " WHERE tenant_id = :tenant_id AND id = :id"
                ),
                {"tenant_id": scope.tenant_id, "id": collection_id},
            )
        ).one()
        if row.owner_id == scope.user_id or scope.manages_collections:
            # The quota counts what its owner cannot read, too. Others are told of what they read.
            await as_worker(connection)
        return CollectionLimits(
            row.max_documents,
            row.max_bytes,
            row.retention_days,
            row.expires_days,
            await stored_in(connection, scope.tenant_id, collection_id),
            self._quotas.collection,
        )
