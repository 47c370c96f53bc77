"""Retrying and cancelling, progress, and the chunks of one document."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any
from uuid import UUID

from google.protobuf.message import Message
from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from wireroom_common.db import Database
from wireroom_common.errors import ErrorKind, WireroomError, not_found
from wireroom_common.outbox import emit
from wireroom_protos.events.v1 import events_pb2
from wireroom_rag.adapters.connections import as_worker, scoped
from wireroom_rag.domain.access import document_not_owned
from wireroom_rag.domain.document import MALWARE_FOUND, PENDING, Chunk, State
from wireroom_rag.domain.scope import Scope, SourceKind
from wireroom_rag.ports.steering import DocumentKey, Progress

_VERSION = "tenant_id = :tenant_id AND document_id = :id AND version = :version"


class SteeringStore:
    """Implements `Steering`, `ProgressReader` and `ChunkReader`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def retry(self, scope: Scope, document_id: UUID, *, may_change_all: bool) -> None:
        async with scoped(self._database, scope) as connection:
            found = await _locked(connection, scope, document_id, may_change_all=may_change_all)
            if found.reason_code == MALWARE_FOUND:
                raise WireroomError(ErrorKind.CONFLICT, "document_quarantined", "A file with malware is not processed again.")
            if State(found.state) not in (State.FAILED, State.REJECTED):
                raise WireroomError(
                    ErrorKind.CONFLICT, "document_not_failed", f"The document is '{found.state}': there is nothing to try again."
                )
            change = """
                state = 'received', content = NULL, page_starts = '{}', pages = 0, chunks = 0, reason_code = '', reason = '', attempts = 0,
                next_attempt_at = now(), lease_token = NULL, leased_until = NULL, created_at = now()
            """
            event = events_pb2.RagDocumentRetried(document_id=str(document_id), version=found.version)
            await _change(connection, scope, found, change, event)

    async def cancel(self, scope: Scope, document_id: UUID, *, may_change_all: bool) -> None:
        async with scoped(self._database, scope) as connection:
            found = await _locked(connection, scope, document_id, may_change_all=may_change_all)
            if State(found.state) not in PENDING:
                raise WireroomError(
                    ErrorKind.CONFLICT, "document_not_in_work", f"The document is '{found.state}': there is nothing to cancel."
                )
            change = """
                state = 'failed', reason_code = 'document_cancelled', reason = 'Processing was cancelled.', lease_token = NULL,
                leased_until = NULL
            """
            event = events_pb2.RagDocumentFailed(
                document_id=str(document_id), version=found.version, reason_code="document_cancelled"
            )
            await _change(connection, scope, found, change, event)

    async def progress(self, keys: Collection[DocumentKey]) -> Mapping[DocumentKey, Progress]:
        async with self._database.system() as connection:
            rows = await connection.execute(
                text(
                    """
                    SELECT DISTINCT ON (v.tenant_id, v.document_id) v.tenant_id, v.document_id, v.version, v.state, v.pages, v.chunks,
                           v.updated_at, d.readers, d.deleted_at IS NOT NULL AS deleted
                      FROM document_versions v
                      JOIN documents d ON d.tenant_id = v.tenant_id AND d.id = v.document_id
                      JOIN unnest(CAST(:tenants AS uuid[]), CAST(:ids AS uuid[])) AS k (tenant_id, document_id)
                        ON v.tenant_id = k.tenant_id AND v.document_id = k.document_id
                     ORDER BY v.tenant_id, v.document_id, v.version DESC
                    """
                ),
                {"tenants": [tenant_id for tenant_id, _ in keys], "ids": [document_id for _, document_id in keys]},
            )
            return {
                (row.tenant_id, row.document_id): Progress(
                    row.version, State(row.state), row.pages, row.chunks, row.updated_at, tuple(row.readers), row.deleted
                )
                for row in rows
            }

    async def chunks(self, scope: Scope, document_id: UUID, *, limit: int, behind: int) -> tuple[int, Sequence[Chunk]] | None:
        if SourceKind.DOCUMENT not in scope.kinds:
            return None
        keys = {"tenant_id": scope.tenant_id, "id": document_id}
        async with scoped(self._database, scope) as connection:
            row = (
                await connection.execute(
                    text(
                        "SELECT COALESCE(indexed_version, 0) AS version FROM documents"
                        " WHERE tenant_id = :tenant_id AND id = :id AND kind = 'document' AND deleted_at IS NULL"
                    ),
                    keys,
                )
            ).one_or_none()
            if row is None:
                return None
            # The oldest generation of the index is complete; a newer one may be under construction.
            rows = await connection.execute(
                text(
                    f"""
                    SELECT start_at, end_at, page, content FROM chunks
                     WHERE {_VERSION} AND start_at > :behind
                       AND generation = (SELECT min(generation) FROM chunks WHERE {_VERSION})
                     ORDER BY start_at LIMIT :limit
                    """  # noqa: S608 - constants of this file
                ),
                {**keys, "version": row.version, "behind": behind, "limit": limit},
            )
            return row.version, [Chunk(each.start_at, each.end_at, each.page, each.content) for each in rows]


async def _locked(connection: AsyncConnection, scope: Scope, document_id: UUID, *, may_change_all: bool) -> Row[Any]:
    found = (
        await connection.execute(
            text(
                """
                SELECT d.id, d.owner_id, v.version, v.state, v.reason_code
                  FROM documents d
                  JOIN document_versions v ON v.tenant_id = d.tenant_id AND v.document_id = d.id AND v.version = d.latest_version
                 WHERE d.tenant_id = :tenant_id AND d.id = :id AND d.kind = 'document' AND d.deleted_at IS NULL
                   FOR UPDATE OF d
                """
            ),
            {"tenant_id": scope.tenant_id, "id": document_id},
        )
    ).one_or_none()
    if found is None:
        raise not_found("document")
    if found.owner_id != scope.user_id and not may_change_all:
        raise document_not_owned("change")
    await as_worker(connection)
    # A worker that ends the job meanwhile holds this row: only now is its state certain.
    current = await connection.execute(
        text(
            "SELECT document_id AS id, version, state, reason_code FROM document_versions"  # noqa: S608 - a constant of this file
            f" WHERE {_VERSION} FOR UPDATE"
        ),
        {"tenant_id": scope.tenant_id, "id": document_id, "version": found.version},
    )
    return current.one()


async def _change(connection: AsyncConnection, scope: Scope, found: Row[Any], change: str, event: Message) -> None:
    await connection.execute(
        text(f"UPDATE document_versions SET {change}, updated_at = now() WHERE {_VERSION}"),  # noqa: S608 - constants of this file
        {"tenant_id": scope.tenant_id, "id": found.id, "version": found.version},
    )
    await emit(connection, event, tenant_id=scope.tenant_id, subject=str(found.id), actor=str(scope.user_id))
