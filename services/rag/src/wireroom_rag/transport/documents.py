"""`DocumentService`."""

from __future__ import annotations

import base64
import binascii
from collections.abc import AsyncIterator, Callable
from typing import Any
from uuid import UUID

from wireroom_common.errors import invalid, not_found
from wireroom_common.ids import parse_id
from wireroom_common.principal import current_principal
from wireroom_protos.rag.v1 import rag_pb2, rag_pb2_grpc
from wireroom_rag.domain.access import Access
from wireroom_rag.domain.document import Document, Placement, State
from wireroom_rag.ports.documents import DocumentStore
from wireroom_rag.transport.scopes import MANAGE_ALL, READ_DOCUMENTS, WRITE_DOCUMENTS, document_scope
from wireroom_rag.usecases.content import ReadContent
from wireroom_rag.usecases.delete import DeleteDocument
from wireroom_rag.usecases.upload import UploadDocument

_DEFAULT_PAGE = 50
_MAX_PAGE = 200
_PIECE = 256 * 1024
STATES = {
    State.RECEIVED: rag_pb2.DOCUMENT_STATE_RECEIVED,
    State.SCANNED: rag_pb2.DOCUMENT_STATE_SCANNED,
    State.EXTRACTED: rag_pb2.DOCUMENT_STATE_EXTRACTED,
    State.CHUNKED: rag_pb2.DOCUMENT_STATE_CHUNKED,
    State.EMBEDDED: rag_pb2.DOCUMENT_STATE_EMBEDDED,
    State.INDEXED: rag_pb2.DOCUMENT_STATE_INDEXED,
    State.REJECTED: rag_pb2.DOCUMENT_STATE_REJECTED,
    State.FAILED: rag_pb2.DOCUMENT_STATE_FAILED,
}

ACCESSES = {
    Access.TENANT: rag_pb2.DOCUMENT_ACCESS_TENANT,
    Access.PRIVATE: rag_pb2.DOCUMENT_ACCESS_PRIVATE,
    Access.COLLECTIONS: rag_pb2.DOCUMENT_ACCESS_COLLECTIONS,
}
_FROM_ACCESSES = {value: access for access, value in ACCESSES.items()}


class DocumentServicer(rag_pb2_grpc.DocumentServiceServicer):
    """Maps messages to the use cases."""

    def __init__(
        self,
        *,
        upload: UploadDocument,
        delete: DeleteDocument,
        read: ReadContent,
        documents: DocumentStore,
        wake: Callable[[], None],
    ) -> None:
        self._read = read
        self._upload = upload
        self._delete = delete
        self._documents = documents
        self._wake = wake

    async def UploadDocument(  # noqa: N802 - the rpc's signature
        self,
        request_iterator: AsyncIterator[rag_pb2.UploadDocumentRequest],
        context: Any,  # noqa: ARG002 - the rpc's signature
    ) -> rag_pb2.UploadDocumentResponse:
        scope = document_scope(WRITE_DOCUMENTS)
        requests = aiter(request_iterator)
        first = await anext(requests, None)
        if first is None or first.WhichOneof("part") != "head":
            raise invalid("upload_head_missing", "The first message of an upload must name the file.", field="filename")
        document = await self._upload(scope, first.head.filename, _data(requests), _placement(first.head))
        self._wake()
        return rag_pb2.UploadDocumentResponse(document=document_message(document))

    async def GetDocument(self, request: rag_pb2.GetDocumentRequest, context: Any) -> rag_pb2.GetDocumentResponse:  # noqa: N802, ARG002 - the rpc's signature
        document = await self._documents.get(document_scope(READ_DOCUMENTS), parse_id(request.id, "document"))
        if document is None:
            raise not_found("document")
        return rag_pb2.GetDocumentResponse(document=document_message(document))

    async def ListDocuments(self, request: rag_pb2.ListDocumentsRequest, context: Any) -> rag_pb2.ListDocumentsResponse:  # noqa: N802, ARG002 - the rpc's signature
        scope = document_scope(READ_DOCUMENTS)
        if request.page_size < 0:
            raise invalid("page_size_out_of_range", f"page_size must be between 1 and {_MAX_PAGE}.", field="page_size")
        size = min(request.page_size or _DEFAULT_PAGE, _MAX_PAGE)
        if request.after and request.page_token:
            raise invalid("page_token_malformed", "A page begins behind `after` or `page_token`, not both.", field="page_token")
        behind = _position(request.page_token) if request.page_token else None
        if request.after:
            behind = parse_id(request.after, "document")
        found = await self._documents.list(scope, limit=size + 1, behind=behind, ascending=request.ascending)
        response = rag_pb2.ListDocumentsResponse(documents=[document_message(document) for document in found[:size]])
        if len(found) > size:
            response.next_page_token = _token(found[size - 1].id)
        return response

    async def DeleteDocument(self, request: rag_pb2.DeleteDocumentRequest, context: Any) -> rag_pb2.DeleteDocumentResponse:  # noqa: N802, ARG002 - the rpc's signature
        scope = document_scope(WRITE_DOCUMENTS)
        await self._delete(scope, parse_id(request.id, "document"), may_delete_all=MANAGE_ALL in current_principal().permissions)
        return rag_pb2.DeleteDocumentResponse()

    async def GetContent(  # noqa: N802 - the rpc's signature
        self,
        request: rag_pb2.GetContentRequest,
        context: Any,  # noqa: ARG002 - the rpc's signature
    ) -> AsyncIterator[rag_pb2.GetContentResponse]:
        document, data = await self._read(document_scope(READ_DOCUMENTS), parse_id(request.id, "document"))
        yield rag_pb2.GetContentResponse(document=document_message(document))
        async for block in data:
            for start in range(0, len(block), _PIECE):
                yield rag_pb2.GetContentResponse(data=block[start : start + _PIECE])


async def _data(requests: AsyncIterator[rag_pb2.UploadDocumentRequest]) -> AsyncIterator[bytes]:
    async for request in requests:
        if request.WhichOneof("part") != "data":
            raise invalid("upload_malformed", "After its first message an upload consists of data only.", field="file")
        yield request.data


def _token(last: UUID) -> str:
    return base64.urlsafe_b64encode(last.bytes).rstrip(b"=").decode("ascii")


def _position(token: str) -> UUID:
    try:
        return UUID(bytes=base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True))
    except (binascii.Error, ValueError):
        raise invalid("page_token_malformed", "The page token is not one that this list has given.", field="page_token") from None


def access_of(value: rag_pb2.DocumentAccess.ValueType) -> Access | None:
    """None for unspecified; INVALID for what is none."""
    if value and value not in _FROM_ACCESSES:
        raise invalid("access_unknown", "A document's access is 'tenant', 'private' or 'collections'.", field="access")
    return _FROM_ACCESSES.get(value)


def _placement(head: rag_pb2.UploadHead) -> Placement:
    return Placement(access_of(head.access), parse_id(head.collection_id, "collection") if head.collection_id else None)


def document_message(document: Document) -> rag_pb2.Document:
    """As it goes over the wire."""
    message = rag_pb2.Document(
        id=str(document.id),
        version=document.version,
        name=document.name,
        media_type=document.media_type,
        size=document.size,
        sha256=document.sha256,
        state=STATES[document.state],
        reason_code=document.reason_code,
        reason=document.reason,
        pages=document.pages,
        chunks=document.chunks,
        owner_id=str(document.owner_id),
        access=ACCESSES[document.access],
    )
    message.created_at.FromDatetime(document.created_at)
    message.updated_at.FromDatetime(document.updated_at)
    return message
