"""TextExportService."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

from wireroom_chat.adapters.export_sql import ExportStore
from wireroom_common.principal import current_principal
from wireroom_protos.chat.v1 import privacy_pb2, privacy_pb2_grpc

EXPORT = "privacy:erase:self"
# Of a message of gRPC, well below what it may hold.
_PIECE = 1024 * 1024


class ExportServicer(privacy_pb2_grpc.TextExportServiceServicer):
    """The caller's own texts, and nobody else's."""

    def __init__(self, store: ExportStore) -> None:
        self._store = store

    async def ExportTexts(  # noqa: N802 - the rpc's signature
        self,
        request: privacy_pb2.ExportTextsRequest,  # noqa: ARG002 - the rpc's signature
        context: Any,  # noqa: ARG002 - the rpc's signature
    ) -> AsyncIterator[privacy_pb2.ExportTextsResponse]:
        principal = current_principal()
        principal.require(EXPORT)
        rows = self._store.rows(principal.tenant(), principal.user_id())
        async with aclosing(rows):
            async for name, entry in rows:
                data = entry.encode()
                for start in range(0, len(data), _PIECE):
                    more = start + _PIECE < len(data)
                    yield privacy_pb2.ExportTextsResponse(list=name, json=data[start : start + _PIECE], more=more)
