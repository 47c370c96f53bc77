"""How documents are processed: followed, tried again, cancelled; what came of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson
from fastapi import FastAPI, Response
from starlette.types import Scope

from wireroom_common.principal import current_principal
from wireroom_gateway.access import access
from wireroom_gateway.identity.revocations import Revocations
from wireroom_gateway.problems import problem_of
from wireroom_gateway.routes.answering import Headers, Waiting, told
from wireroom_gateway.routes.application import problem_responses
from wireroom_gateway.routes.chat.streaming import EVENTS, EventStream
from wireroom_gateway.routes.documents import DocumentOutput, document_output
from wireroom_gateway.routes.downloads import CONTENT, download
from wireroom_gateway.routes.fields import Output, PageSize, PageToken
from wireroom_gateway.routes.watched_calls import WatchedCall
from wireroom_gateway.services import Services
from wireroom_protos.rag.v1 import processing_pb2, rag_pb2

_ENDED = (rag_pb2.DOCUMENT_STATE_INDEXED, rag_pb2.DOCUMENT_STATE_REJECTED, rag_pb2.DOCUMENT_STATE_FAILED)
_SHOWN = ("id", "version", "state", "reason_code", "reason", "pages", "chunks", "updated_at")


class ChunkOutput(Output):
    """A passage; `start` and `end` are code points of the version's text, end exclusive."""

    start: int
    end: int
    page: int
    text: str


class ChunksOutput(Output):
    """Passages of the version that is searched (0: none is), in the order of the text."""

    version: int
    chunks: list[ChunkOutput]
    next_page_token: str


class _ProgressEvents:
    """`progress` with each change, `done` with the final state, or `error`."""

    def take(self, part: processing_pb2.WatchDocumentResponse) -> bytes:
        shown = document_output(part.document).model_dump(mode="json", include=set(_SHOWN))
        return _event(b"done" if part.document.state in _ENDED else b"progress", shown)

    def headers(self) -> Headers:
        return []

    def end(self, scope: Scope, error: Exception | None) -> bytes:
        if error is None:
            return b""
        told(scope, error)
        problem = problem_of(error)
        return _event(b"error", {"code": problem.code, "detail": problem.detail})


def add_processing_routes(
    api: FastAPI,
    services: Services,
    waiting: Waiting,
    *,
    timeout: float,
    download_timeout: float,
    revocations: Callable[[], Revocations],
    draining: Callable[[], bool],
) -> None:
    """Below `/api/v1/documents/{id}`. `waiting` for the events, `timeout` for the rest."""
    stub = services.processing

    @api.post("/api/v1/documents/{id}/retry", status_code=202, tags=["documents"], responses=problem_responses(404, 409, 415))
    @access("docs:write")
    async def retry_document(id: str) -> DocumentOutput:  # noqa: A002 - the path's name for it
        answer = await stub.RetryDocument(processing_pb2.RetryDocumentRequest(id=id), timeout=timeout)
        return document_output(answer.document)

    @api.post("/api/v1/documents/{id}/cancel", tags=["documents"], responses=problem_responses(404, 409, 415))
    @access("docs:write")
    async def cancel_document(id: str) -> DocumentOutput:  # noqa: A002 - the path's name for it
        answer = await stub.CancelDocument(processing_pb2.CancelDocumentRequest(id=id), timeout=timeout)
        return document_output(answer.document)

    @api.get(
        "/api/v1/documents/{id}/events",
        tags=["documents"],
        status_code=200,
        response_class=EventStream,
        response_model=None,
        description="Events `progress` with each change of state, then `done` or `error`. A stream that ends early may be asked for again:"
        " it ends when the document may not be read any more, the credential is void, or the server is about to stop.",
        responses={200: EVENTS, **problem_responses(404)},
    )
    @access("docs:read")
    async def document_events(id: str) -> EventStream:  # noqa: A002 - the path's name for it
        call = stub.WatchDocument(processing_pb2.WatchDocumentRequest(id=id), timeout=waiting.answer)
        watched = WatchedCall(call, current_principal(), revocations(), draining)
        return EventStream(watched, _ProgressEvents(), waiting)

    @api.get("/api/v1/documents/{id}/chunks", tags=["documents"], responses=problem_responses(404))
    @access("docs:read")
    async def document_chunks(id: str, page_size: PageSize = 50, page_token: PageToken = "") -> ChunksOutput:  # noqa: A002 - the path's name for it
        request = processing_pb2.ListChunksRequest(id=id, page_size=page_size, page_token=page_token)
        answer = await stub.ListChunks(request, timeout=timeout)
        chunks = [ChunkOutput(start=chunk.start, end=chunk.end, page=chunk.page, text=chunk.text) for chunk in answer.chunks]
        return ChunksOutput(version=answer.version, chunks=chunks, next_page_token=answer.next_page_token)

    @api.get("/api/v1/documents/{id}/content", tags=["documents"], response_class=Response, responses=CONTENT)
    @access("docs:read")
    async def document_content(id: str) -> Response:  # noqa: A002 - the path's name for it
        return await download(services.documents.GetContent(rag_pb2.GetContentRequest(id=id), timeout=download_timeout))


def _event(kind: bytes, data: dict[str, Any]) -> bytes:
    return b"event: %s\ndata: %s\n\n" % (kind, orjson.dumps(data))
