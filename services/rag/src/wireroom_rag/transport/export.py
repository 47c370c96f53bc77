"""DocumentExportService."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

from wireroom_protos.rag.v1 import privacy_pb2, privacy_pb2_grpc
from wireroom_rag.adapters.export_sql import ExportStore
from wireroom_rag.transport.scopes import document_scope

EXPORT = "privacy:erase:self"


class ExportServicer(privacy_pb2_grpc.DocumentExportServiceServicer):
    """What the caller owns, and nobody else does."""

    def __init__(self, store: ExportStore) -> None:
        self._store = store

    async def ExportDocuments(  # noqa: N802 - the rpc's signature
        self,
        request: privacy_pb2.ExportDocumentsRequest,  # noqa: ARG002 - the rpc's signature
        context: Any,  # noqa: ARG002 - the rpc's signature
    ) -> AsyncIterator[privacy_pb2.ExportDocumentsResponse]:
        rows = self._store.rows(document_scope(EXPORT))
        async with aclosing(rows):
            async for row in rows:
                yield privacy_pb2.ExportDocumentsResponse(
                    list=row.list, json=row.json.encode(), document_id=str(row.document_id or ""), name=row.name
                )
