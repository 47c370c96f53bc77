"""What is kept no longer: old versions, members of collections with a term, collections nobody uses, old articles."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import text

from wireroom_common.db import Database
from wireroom_common.outbox import emit
from wireroom_protos.events.v1 import events_pb2
from wireroom_rag.adapters.articles_sql import remove_articles
from wireroom_rag.adapters.connections import worker
from wireroom_rag.adapters.deletion_sql import bury, told
from wireroom_rag.adapters.readers_sql import lock_members, reread_for
from wireroom_rag.domain.document import OldVersion


class RetentionStore:
    """Implements `Retention`. Each call does a bounded part and may be repeated."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def old_versions(self, *, kept: int, days: int, limit: int) -> Sequence[OldVersion]:
        """Of all tenants: neither the newest nor the one that is served, beyond the `kept` newest or (0: never) older than `days`."""
        async with self._database.system() as connection:
            rows = await connection.execute(
                text(
                    "SELECT v.tenant_id, v.document_id, v.version FROM document_versions v"
                    " JOIN documents d ON d.tenant_id = v.tenant_id AND d.id = v.document_id"
                    " WHERE d.kind = 'document' AND d.deleted_at IS NULL AND d.latest_version > 1"
                    "   AND v.version < d.latest_version AND v.version <> COALESCE(d.indexed_version, 0)"
                    "   AND (v.version <= d.latest_version - :kept"
                    "        OR (:days > 0 AND v.created_at < now() - make_interval(days => :days)))"
                    " ORDER BY v.created_at LIMIT :limit"
                ),
                {"kept": kept, "days": days, "limit": limit},
            )
            return [OldVersion(row.tenant_id, row.document_id, row.version) for row in rows]

    async def remove_version(self, old: OldVersion) -> bool:
        """The row, its file becoming one of the dropped; False, and nothing done, if the version came to be served meanwhile."""
        keys = {"tenant_id": old.tenant_id, "id": old.document_id, "version": old.version}
        async with worker(self._database, old.tenant_id) as connection:
            # Whoever makes a version the served one holds this row: what is read from here on stays true.
            await connection.execute(text("SELECT 1 FROM documents WHERE tenant_id = :tenant_id AND id = :id FOR UPDATE"), keys)
            removed = await connection.execute(
                text(
                    """
                    WITH gone AS (
                        DELETE FROM document_versions v USING documents d
                         WHERE v.tenant_id = :tenant_id AND v.document_id = :id AND v.version = :version
                           AND d.tenant_id = v.tenant_id AND d.id = v.document_id
                           AND v.version < d.latest_version AND v.version <> COALESCE(d.indexed_version, 0)
                        RETURNING v.blob_key, d.owner_id
                    ), dropped AS (
                        INSERT INTO dropped_files (tenant_id, blob_key, owner_id)
                        SELECT :tenant_id, blob_key, owner_id FROM gone WHERE blob_key IS NOT NULL ON CONFLICT DO NOTHING
                    )
                    SELECT count(*) FROM gone
                    """
                ),
                keys,
            )
            return bool(removed.scalar_one())

    async def terms(self) -> Sequence[tuple[UUID, UUID]]:
        """Collections (tenant, id) with a term for their members."""
        async with self._database.system() as connection:
            rows = await connection.execute(
                text("SELECT tenant_id, id FROM collections WHERE retention_days IS NOT NULL LIMIT 10000")
            )
            return [(row.tenant_id, row.id) for row in rows]

    async def end_members(self, tenant_id: UUID, collection_id: UUID, limit: int) -> int:
        """Take out members whose newest version is older than the term; delete those nobody else could reach; how many."""
        values = {"tenant_id": tenant_id, "id": collection_id, "limit": limit}
        async with worker(self._database, tenant_id) as connection:
            days = (
                await connection.execute(
                    text("SELECT retention_days FROM collections WHERE tenant_id = :tenant_id AND id = :id FOR NO KEY UPDATE"),
                    values,
                )
            ).scalar_one_or_none()
            if days is None:
                return 0
            rows = (
                await connection.execute(
                    text(
                        "SELECT d.id, d.access = 'collections' AND NOT EXISTS (SELECT 1 FROM collection_documents o"
                        "  WHERE o.tenant_id = d.tenant_id AND o.document_id = d.id AND o.collection_id <> :id) AS only_here"
                        " FROM collection_documents m JOIN documents d ON d.tenant_id = m.tenant_id AND d.id = m.document_id"
                        " JOIN document_versions v ON v.tenant_id = d.tenant_id AND v.document_id = d.id AND v.version = d.latest_version"
                        " WHERE m.tenant_id = :tenant_id AND m.collection_id = :id"
                        "   AND v.created_at < now() - make_interval(days => :days)"
                        " ORDER BY d.id LIMIT :limit FOR UPDATE OF d"
                    ),
                    {**values, "days": days},
                )
            ).all()
            ids = [row.id for row in rows]
            await connection.execute(
                text(
                    "DELETE FROM collection_documents WHERE tenant_id = :tenant_id AND collection_id = :id"
                    " AND document_id = ANY(CAST(:ids AS uuid[]))"
                ),
                {**values, "ids": ids},
            )
            ended = [row.id for row in rows if row.only_here]
            await bury(connection, tenant_id, ended)
            for document_id in ended:
                await told(connection, tenant_id, document_id, "rag", reason="retention", collection_id=str(collection_id))
            await reread_for(connection, tenant_id, collection_id, [row.id for row in rows if not row.only_here])
            for document_id in set(ids).difference(ended):
                event = events_pb2.RagCollectionDocumentRemoved(collection_id=str(collection_id), document_id=str(document_id))
                await emit(connection, event, tenant_id=tenant_id, subject=str(collection_id))
            return len(ended)

    async def expired_collections(self, limit: int) -> Sequence[tuple[UUID, UUID]]:
        """Collections (tenant, id) that nobody has searched or changed for as long as they say."""
        async with self._database.system() as connection:
            rows = await connection.execute(
                text(
                    "SELECT tenant_id, id FROM collections WHERE expires_days IS NOT NULL"
                    " AND last_active_at < now() - make_interval(days => expires_days) LIMIT :limit"
                ),
                {"limit": limit},
            )
            return [(row.tenant_id, row.id) for row in rows]

    async def remove_collection(self, tenant_id: UUID, collection_id: UUID) -> None:
        """If it is still expired; its documents stay."""
        values = {"tenant_id": tenant_id, "id": collection_id}
        async with worker(self._database, tenant_id) as connection:
            held = await connection.execute(
                text(
                    "SELECT 1 FROM collections WHERE tenant_id = :tenant_id AND id = :id AND expires_days IS NOT NULL"
                    " AND last_active_at < now() - make_interval(days => expires_days) FOR UPDATE"
                ),
                values,
            )
            if held.one_or_none() is None:
                return
            members = await lock_members(connection, tenant_id, collection_id)
            await connection.execute(text("DELETE FROM collections WHERE tenant_id = :tenant_id AND id = :id"), values)
            await reread_for(connection, tenant_id, collection_id, members)
            event = events_pb2.RagCollectionDeleted(collection_id=str(collection_id))
            await emit(connection, event, tenant_id=tenant_id, subject=str(collection_id))

    async def old_articles(self, days: int, limit: int) -> Sequence[tuple[UUID, UUID]]:
        """Articles (tenant, id) that came more than `days` ago."""
        async with self._database.system() as connection:
            rows = await connection.execute(
                text(
                    "SELECT tenant_id, id FROM documents WHERE kind = 'article' AND created_at < now() - make_interval(days => :days)"
                    " ORDER BY created_at LIMIT :limit"
                ),
                {"days": days, "limit": limit},
            )
            return [(row.tenant_id, row.id) for row in rows]

    async def remove_articles(self, tenant_id: UUID, ids: list[UUID]) -> None:
        """With everything that is known of them here; the news service keeps its own."""
        async with worker(self._database, tenant_id) as connection:
            await remove_articles(connection, tenant_id, ids)
