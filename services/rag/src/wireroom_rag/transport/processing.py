"""`ProcessingService`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any
from uuid import UUID

from wireroom_common.errors import invalid, not_found
from wireroom_common.ids import parse_id
from wireroom_common.principal import current_principal
from wireroom_protos.rag.v1 import processing_pb2, processing_pb2_grpc, rag_pb2
from wireroom_rag.domain.scope import Scope
from wireroom_rag.ports.documents import DocumentStore
from wireroom_rag.ports.steering import ChunkReader, Steering
from wireroom_rag.transport.documents import document_message
from wireroom_rag.transport.scopes import MANAGE_ALL, READ_DOCUMENTS, WRITE_DOCUMENTS, document_scope
from wireroom_rag.usecases.watch import WatchDocument

_DEFAULT_PAGE = 50
_MAX_PAGE = 200
_LONGEST_TOKEN = 10


class ProcessingServicer(processing_pb2_grpc.ProcessingServiceServicer):
    """Maps messages to the use cases."""

    def __init__(
        self, *, steering: Steering, chunks: ChunkReader, watch: WatchDocument, documents: DocumentStore, wake: Callable[[], None]
    ) -> None:
        self._steering = steering
        self._chunks = chunks
        self._watch = watch
        self._documents = documents
        self._wake = wake

    async def RetryDocument(  # noqa: N802 - the rpc's signature
        self,
        request: processing_pb2.RetryDocumentRequest,
        context: Any,  # noqa: ARG002 - the rpc's signature
    ) -> processing_pb2.RetryDocumentResponse:
        scope, document_id = _own(request.id)
        await self._steering.retry(scope, document_id, may_change_all=_may_change_all())
        self._wake()
        return processing_pb2.RetryDocumentResponse(document=await self._document(scope, document_id))

    async def CancelDocument(  # noqa: N802 - the rpc's signature
        self,
        request: processing_pb2.CancelDocumentRequest,
        context: Any,  # noqa: ARG002 - the rpc's signature
    ) -> processing_pb2.CancelDocumentResponse:
        scope, document_id = _own(request.id)
        await self._steering.cancel(scope, document_id, may_change_all=_may_change_all())
        return processing_pb2.CancelDocumentResponse(document=await self._document(scope, document_id))

    async def WatchDocument(  # noqa: N802 - the rpc's signature
        self,
        request: processing_pb2.WatchDocumentRequest,
        context: Any,  # noqa: ARG002 - the rpc's signature
    ) -> AsyncIterator[processing_pb2.WatchDocumentResponse]:
        async for document in self._watch(document_scope(READ_DOCUMENTS), parse_id(request.id, "document")):
            yield processing_pb2.WatchDocumentResponse(document=document_message(document))

    async def ListChunks(  # noqa: N802 - the rpc's signature
        self,
        request: processing_pb2.ListChunksRequest,
        context: Any,  # noqa: ARG002 - the rpc's signature
    ) -> processing_pb2.ListChunksResponse:
        scope = document_scope(READ_DOCUMENTS)
        if request.page_size < 0:
            raise invalid("page_size_out_of_range", f"page_size must be between 1 and {_MAX_PAGE}.", field="page_size")
        size = min(request.page_size or _DEFAULT_PAGE, _MAX_PAGE)
        found = await self._chunks.chunks(
            scope, parse_id(request.id, "document"), limit=size + 1, behind=_position(request.page_token)
        )
        if found is None:
            raise not_found("document")
        version, chunks = found
        page = [
            processing_pb2.Chunk(start=chunk.start, end=chunk.end, page=chunk.page, text=chunk.text) for chunk in chunks[:size]
        ]
        more = str(page[-1].start) if len(chunks) > size else ""
        return processing_pb2.ListChunksResponse(version=version, chunks=page, next_page_token=more)

    async def _document(self, scope: Scope, document_id: UUID) -> rag_pb2.Document:
        document = await self._documents.get(scope, document_id)
        if document is None:
            raise not_found("document")
        return document_message(document)


def _own(document_id: str) -> tuple[Scope, UUID]:
    return document_scope(WRITE_DOCUMENTS), parse_id(document_id, "document")


def _may_change_all() -> bool:
    return MANAGE_ALL in current_principal().permissions


def _position(token: str) -> int:
    if not token:
        return -1
    if not (token.isascii() and token.isdigit() and len(token) <= _LONGEST_TOKEN and int(token) < 2**31):
        raise invalid("page_token_malformed", "The page token is not one that this list has given.", field="page_token")
    return int(token)
