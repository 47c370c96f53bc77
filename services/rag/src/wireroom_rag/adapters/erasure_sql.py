"""Erasure of a user or a tenant: begun in the transaction of the event that asks for it, completed when the last document is gone."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from wireroom_common.db import Database
from wireroom_common.outbox import emit
from wireroom_protos.events.v1 import events_pb2
from wireroom_rag.adapters import audit_trail
from wireroom_rag.adapters.connections import as_worker, worker
from wireroom_rag.adapters.deletion_sql import bury
from wireroom_rag.adapters.erased_owners import is_erased, lock_additions
from wireroom_rag.adapters.kept_vectors_sql import forget_vectors
from wireroom_rag.adapters.readers_sql import reread
from wireroom_rag.adapters.transfer_sql import transfer_shared
from wireroom_rag.domain.access import user_token
from wireroom_rag.domain.erasure import Erased, OpenErasure, Receipt, Signer, receipt_of

_COUNTS = ("documents", "versions", "chunks", "blobs", "bytes", "collections", "grants", "articles", "transferred")


async def begin_erasure(
    connection: AsyncConnection, tenant_id: UUID, erasure_id: UUID, user_id: UUID | None, transfer_to: UUID | None = None
) -> None:
    """Tombstones for everything of the user (None: of the tenant); its collections and grants go at once.

    What others read goes to `transfer_to` instead, unless that user is erased, too. Asked again after its completion, it is told again.
    """
    await as_worker(connection)
    await lock_additions(connection, tenant_id)
    heir = transfer_to
    if user_id is None or heir is None or await is_erased(connection, tenant_id, heir):
        heir = None
    values: dict[str, Any] = {"tenant_id": tenant_id, "id": erasure_id, "user_id": user_id, "transfer_to": heir}
    begun = await connection.execute(
        text(
            "INSERT INTO erasures (tenant_id, id, user_id, transfer_to) VALUES (:tenant_id, :id, :user_id, :transfer_to)"
            " ON CONFLICT DO NOTHING"
        ),
        values,
    )
    if not begun.rowcount:
        await _tell_again(connection, tenant_id, erasure_id)
        return
    if user_id is not None and heir is not None:
        moved = await transfer_shared(connection, tenant_id, user_id, heir)
        await connection.execute(
            text("UPDATE erasures SET transferred = :count WHERE tenant_id = :tenant_id AND id = :id"),
            {**values, "count": moved.documents + moved.collections},
        )
    owned = "" if user_id is None else " AND owner_id = :user_id"
    # In the order of every other change: collections before documents.
    affected = await _drop_collections(connection, tenant_id, values, owned)
    grants = 0 if user_id is None else await _drop_grants(connection, tenant_id, user_id, affected)
    mine = (
        await connection.execute(
            text(
                f"SELECT id FROM documents WHERE tenant_id = :tenant_id AND deleted_at IS NULL{owned} ORDER BY id FOR UPDATE"  # noqa: S608 - constants
            ),
            values,
        )
    ).scalars()
    ids = list(mine)
    await bury(connection, tenant_id, ids, erasure_id)
    others = sorted(affected.difference(ids))
    if others:
        await connection.execute(
            text(
                "SELECT 1 FROM documents WHERE tenant_id = :tenant_id AND id = ANY(CAST(:ids AS uuid[])) ORDER BY id FOR NO KEY UPDATE"
            ),
            {"tenant_id": tenant_id, "ids": others},
        )
        await reread(connection, tenant_id, others)
    await connection.execute(
        text("UPDATE erasures SET grants = :grants WHERE tenant_id = :tenant_id AND id = :id"), {**values, "grants": grants}
    )
    await emit(
        connection, events_pb2.RagAclChanged(documents=len(ids)), tenant_id=tenant_id, subject=str(erasure_id), effect=False
    )


async def _drop_collections(connection: AsyncConnection, tenant_id: UUID, values: dict[str, Any], owned: str) -> set[UUID]:
    dropped = list(
        (
            await connection.execute(
                text(f"SELECT id FROM collections WHERE tenant_id = :tenant_id{owned} ORDER BY id FOR UPDATE"),  # noqa: S608 - constants
                values,
            )
        ).scalars()
    )
    members = await _members(connection, tenant_id, dropped)
    await connection.execute(
        text("DELETE FROM collections WHERE tenant_id = :tenant_id AND id = ANY(CAST(:ids AS uuid[]))"),
        {"tenant_id": tenant_id, "ids": dropped},
    )
    # Those in collections of others.
    await connection.execute(text(f"DELETE FROM file_batches WHERE tenant_id = :tenant_id{owned}"), values)  # noqa: S608 - constants
    for collection_id in dropped:
        event = events_pb2.RagCollectionDeleted(collection_id=str(collection_id))
        await emit(connection, event, tenant_id=tenant_id, subject=str(collection_id), effect=False)
    await connection.execute(
        text("UPDATE erasures SET collections = :count WHERE tenant_id = :tenant_id AND id = :id"),
        {**values, "count": len(dropped)},
    )
    return members


async def _drop_grants(connection: AsyncConnection, tenant_id: UUID, user_id: UUID, affected: set[UUID]) -> int:
    token = user_token(user_id)
    granted = list(
        (
            await connection.execute(
                text(
                    "SELECT id FROM collections WHERE tenant_id = :tenant_id"
                    " AND (:token = ANY(reader_grants) OR :token = ANY(editor_grants)) ORDER BY id FOR NO KEY UPDATE"
                ),
                {"tenant_id": tenant_id, "token": token},
            )
        ).scalars()
    )
    await connection.execute(
        text(
            "UPDATE collections SET reader_grants = array_remove(reader_grants, :token), acl_version = acl_version + 1,"
            " editor_grants = array_remove(editor_grants, :token) WHERE tenant_id = :tenant_id AND id = ANY(CAST(:ids AS uuid[]))"
        ),
        {"tenant_id": tenant_id, "token": token, "ids": granted},
    )
    affected.update(await _members(connection, tenant_id, granted))
    return len(granted)


async def _members(connection: AsyncConnection, tenant_id: UUID, collections: Sequence[UUID]) -> set[UUID]:
    rows = await connection.execute(
        text(
            "SELECT DISTINCT document_id FROM collection_documents WHERE tenant_id = :tenant_id"
            " AND collection_id = ANY(CAST(:ids AS uuid[]))"
        ),
        {"tenant_id": tenant_id, "ids": list(collections)},
    )
    return set(rows.scalars())


class ErasureStore:
    """Implements `Erasures`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def finished(self, limit: int) -> Sequence[OpenErasure]:
        """Erasures of all tenants of which nothing is left but the receipt."""
        async with self._database.system() as connection:
            rows = await connection.execute(
                text(
                    "SELECT e.tenant_id, e.id FROM erasures e WHERE e.completed_at IS NULL AND NOT EXISTS ("
                    "SELECT 1 FROM documents d WHERE d.tenant_id = e.tenant_id AND d.erasure_id = e.id)"
                    # Of versions that were let go before: their files may be there still.
                    " AND NOT EXISTS (SELECT 1 FROM dropped_files f"
                    " WHERE f.tenant_id = e.tenant_id AND (e.user_id IS NULL OR f.owner_id = e.user_id))"
                    " ORDER BY e.requested_at LIMIT :limit"
                ),
                {"limit": limit},
            )
            return [OpenErasure(row.tenant_id, row.id) for row in rows]

    async def complete(self, erasure: OpenErasure, signer: Signer) -> Receipt | None:
        """Write the receipt and tell of it, once; None when that was done, or something is left after all."""
        values = {"tenant_id": erasure.tenant_id, "id": erasure.id}
        async with worker(self._database, erasure.tenant_id) as connection:
            row = (
                await connection.execute(
                    text(
                        "SELECT *, now() AS completed FROM erasures WHERE tenant_id = :tenant_id AND id = :id AND completed_at IS NULL"
                        " FOR UPDATE"
                    ),
                    values,
                )
            ).one_or_none()
            if row is None or (row.user_id is None and await _vectors_left(connection, erasure.tenant_id)):
                return None
            items = (
                await connection.execute(
                    text("DELETE FROM erasure_items WHERE tenant_id = :tenant_id AND erasure_id = :id RETURNING hash"), values
                )
            ).scalars()
            await forget_vectors(connection, erasure.tenant_id)
            receipt = _signed(row, list(items), row.completed, signer)
            await connection.execute(
                text(
                    "UPDATE erasures SET completed_at = :completed, receipt = :receipt, signature = :signature, public_key = :public_key"
                    " WHERE tenant_id = :tenant_id AND id = :id"
                ),
                {
                    **values,
                    "completed": receipt.completed_at,
                    "receipt": receipt.content,
                    "signature": receipt.signature,
                    "public_key": receipt.public_key,
                },
            )
            await _tell(connection, erasure.tenant_id, receipt, {name: getattr(row, name) for name in _COUNTS})
            await audit_trail.record(
                connection,
                "erasure.completed",
                tenant_id=erasure.tenant_id,
                subject=str(erasure.id),
                actor="rag",
                receipt_sha256=receipt.sha256(),
            )
            return receipt

    async def receipts(self, tenant_id: UUID, *, limit: int, after: UUID | None) -> Sequence[Receipt]:
        """Erasures of the tenant, newest first."""
        async with self._database.tenant(tenant_id) as connection:
            rows = await connection.execute(
                text(
                    "SELECT * FROM erasures WHERE tenant_id = :tenant_id AND (CAST(:after AS uuid) IS NULL OR id < :after)"
                    " ORDER BY id DESC LIMIT :limit"
                ),
                {"tenant_id": tenant_id, "after": after, "limit": limit},
            )
            return [_receipt(row) for row in rows]

    async def receipt(self, tenant_id: UUID, erasure_id: UUID) -> Receipt | None:
        """One of them."""
        async with self._database.tenant(tenant_id) as connection:
            row = (
                await connection.execute(
                    text("SELECT * FROM erasures WHERE tenant_id = :tenant_id AND id = :id"),
                    {"tenant_id": tenant_id, "id": erasure_id},
                )
            ).one_or_none()
        return _receipt(row) if row is not None else None


async def _vectors_left(connection: AsyncConnection, tenant_id: UUID) -> bool:
    """In another store; of documents that were deleted before, too."""
    left = await connection.execute(
        text("SELECT 1 FROM vector_removals WHERE tenant_id = :tenant_id LIMIT 1"), {"tenant_id": tenant_id}
    )
    return left.one_or_none() is not None


async def _tell(connection: AsyncConnection, tenant_id: UUID, receipt: Receipt, counts: dict[str, int]) -> None:
    done = events_pb2.PrivacyErasurePartDone(
        erasure_id=str(receipt.id),
        part="rag",
        counts=counts,
        receipt_sha256=receipt.sha256(),
        signature=receipt.signature,
        public_key=receipt.public_key,
    )
    await emit(connection, done, tenant_id=tenant_id, subject=str(receipt.id))


async def _tell_again(connection: AsyncConnection, tenant_id: UUID, erasure_id: UUID) -> None:
    row = (
        await connection.execute(
            text("SELECT * FROM erasures WHERE tenant_id = :tenant_id AND id = :id AND completed_at IS NOT NULL"),
            {"tenant_id": tenant_id, "id": erasure_id},
        )
    ).one_or_none()
    if row is not None:
        await _tell(connection, tenant_id, _receipt(row), {name: getattr(row, name) for name in _COUNTS})


def _signed(row: Row[Any], items: Sequence[str], completed: datetime, signer: Signer) -> Receipt:
    counts = {name: getattr(row, name) for name in _COUNTS}
    return receipt_of(Erased(row.tenant_id, row.id, row.user_id, row.requested_at, counts, items), completed, signer)


def _receipt(row: Row[Any]) -> Receipt:
    return Receipt(row.id, row.requested_at, row.completed_at, row.receipt or "", row.signature or "", row.public_key or "")
