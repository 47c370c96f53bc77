"""Documents, passages and citations."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from fastapi import FastAPI, Request, Response
from pydantic import Field

from wireroom_gateway.access import Body, Bucket, access
from wireroom_gateway.routes.application import problem_responses
from wireroom_gateway.routes.fields import Input, Line, Moment, Output, PageSize, PageToken, moment, timestamp
from wireroom_gateway.routes.uploads import upload_document
from wireroom_gateway.services import Services
from wireroom_protos.rag.v1 import rag_pb2

_KINDS = {"document": rag_pb2.SOURCE_KIND_DOCUMENT, "article": rag_pb2.SOURCE_KIND_ARTICLE}
_KIND_NAMES = {value: name for name, value in _KINDS.items()}
_UPLOAD_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "properties": {"file": {"type": "string", "contentMediaType": "application/octet-stream"}},
                }
            }
        },
    }
}


class DocumentOutput(Output):
    """A document and how far its processing is."""

    id: str
    version: int
    name: str
    media_type: str
    size: int
    sha256: str
    state: str
    reason_code: str
    reason: str
    pages: int
    chunks: int
    owner_id: str
    created_at: datetime | None
    updated_at: datetime | None


class DocumentsOutput(Output):
    """A page of documents."""

    documents: list[DocumentOutput]
    next_page_token: str


class StatusOutput(Output):
    """`state`: received, extracted, chunked, embedded, indexed, rejected or failed."""

    id: str
    state: str
    reason_code: str
    reason: str
    pages: int
    chunks: int
    updated_at: datetime | None


class QueryInput(Input):
    """A question to the caller's documents and articles; `since` (RFC 3339) leaves out older articles.

    `collections`: ids or names; of the documents only their members are searched, and no articles unless `kinds` names them.
    """

    query: Annotated[str, Field(min_length=1, max_length=2_000, pattern=r"^[^\x00]*$")]
    top_k: Annotated[int, Field(ge=1, le=50)] = 8
    kinds: Annotated[list[Literal["document", "article"]], Field(max_length=2, default_factory=list)]
    since: Moment = None
    collections: Annotated[list[Line], Field(max_length=20, default_factory=list)]


class PassageOutput(Output):
    """A passage; `start` and `end` are code points of that version's text, end exclusive."""

    id: str
    document_id: str
    version: int
    kind: str
    title: str
    url: str
    page: int
    start: int
    end: int
    text: str
    score: float
    dense_score: float
    lexical_score: float
    published_at: datetime | None


class PassagesOutput(Output):
    """Passages, best first."""

    passages: list[PassageOutput]


class CitationOutput(Output):
    """The cited span in its surroundings."""

    id: str
    document_id: str
    version: int
    kind: str
    title: str
    url: str
    page: int
    start: int
    end: int
    text: str
    sha256: str
    context_before: str
    context_after: str


def add_document_routes(
    api: FastAPI, services: Services, *, timeout: float, upload_timeout: float, max_upload_bytes: int
) -> None:
    """`/api/v1/documents`, `/api/v1/rag/query`, `/api/v1/citations`."""

    @api.post(
        "/api/v1/documents",
        status_code=202,
        tags=["documents"],
        openapi_extra=_UPLOAD_BODY,
        responses=problem_responses(409, 415),
    )
    @access("docs:write", bucket=Bucket.UPLOAD, body=Body.UPLOAD)
    async def upload(request: Request, response: Response) -> DocumentOutput:
        document = await upload_document(
            services.documents,
            request.headers.get("content-type", ""),
            request.receive,
            time_limit=upload_timeout,
            max_file_bytes=max_upload_bytes,
        )
        response.headers["location"] = f"/api/v1/documents/{document.id}"
        return document_output(document)

    @api.get("/api/v1/documents", tags=["documents"])
    @access("docs:read")
    async def list_documents(page_size: PageSize = 50, page_token: PageToken = "") -> DocumentsOutput:
        answer = await services.documents.ListDocuments(
            rag_pb2.ListDocumentsRequest(page_size=page_size, page_token=page_token), timeout=timeout
        )
        return DocumentsOutput(
            documents=[document_output(entry) for entry in answer.documents], next_page_token=answer.next_page_token
        )

    @api.get("/api/v1/documents/{id}", tags=["documents"], responses=problem_responses(404))
    @access("docs:read")
    async def get_document(id: str) -> DocumentOutput:  # noqa: A002 - the path's name for it
        answer = await services.documents.GetDocument(rag_pb2.GetDocumentRequest(id=id), timeout=timeout)
        return document_output(answer.document)

    @api.delete("/api/v1/documents/{id}", status_code=204, tags=["documents"], responses=problem_responses(404))
    @access("docs:write")
    async def delete_document(id: str) -> Response:  # noqa: A002 - the path's name for it
        await services.documents.DeleteDocument(rag_pb2.DeleteDocumentRequest(id=id), timeout=timeout)
        return Response(status_code=204)

    @api.get("/api/v1/documents/{id}/status", tags=["documents"], responses=problem_responses(404))
    @access("docs:read")
    async def document_status(id: str) -> StatusOutput:  # noqa: A002 - the path's name for it
        answer = await services.documents.GetDocument(rag_pb2.GetDocumentRequest(id=id), timeout=timeout)
        return StatusOutput(**document_output(answer.document).model_dump(include=set(StatusOutput.model_fields)))

    @api.post("/api/v1/rag/query", tags=["documents"], responses=problem_responses(404, 409, 415))
    @access("docs:read", prompt=True)
    async def query(body: QueryInput) -> PassagesOutput:
        answer = await services.retrieval.Retrieve(
            rag_pb2.RetrieveRequest(
                query=body.query,
                top_k=body.top_k,
                kinds=[_KINDS[kind] for kind in body.kinds],
                since=timestamp(body.since),
                collection_ids=body.collections,
            ),
            timeout=timeout,
        )
        return PassagesOutput(passages=[_passage(entry) for entry in answer.passages])

    @api.get("/api/v1/citations/{id}", tags=["documents"], responses=problem_responses(404))
    @access("docs:read")
    async def citation(id: str) -> CitationOutput:  # noqa: A002 - the path's name for it
        found = await services.retrieval.ResolveCitation(rag_pb2.ResolveCitationRequest(citation_id=id), timeout=timeout)
        return CitationOutput(
            id=found.citation_id,
            document_id=found.document_id,
            version=found.version,
            kind=_KIND_NAMES.get(found.kind, "unknown"),
            title=found.title,
            url=found.url,
            page=found.page,
            start=found.start,
            end=found.end,
            text=found.text,
            sha256=found.sha256,
            context_before=found.context_before,
            context_after=found.context_after,
        )


def document_output(document: rag_pb2.Document) -> DocumentOutput:
    """The document as the native routes show it."""
    return DocumentOutput(
        id=document.id,
        version=document.version,
        name=document.name,
        media_type=document.media_type,
        size=document.size,
        sha256=document.sha256,
        state=rag_pb2.DocumentState.Name(document.state).removeprefix("DOCUMENT_STATE_").lower(),
        reason_code=document.reason_code,
        reason=document.reason,
        pages=document.pages,
        chunks=document.chunks,
        owner_id=document.owner_id,
        created_at=moment(document, "created_at"),
        updated_at=moment(document, "updated_at"),
    )


def _passage(passage: rag_pb2.Passage) -> PassageOutput:
    return PassageOutput(
        id=passage.id,
        document_id=passage.document_id,
        version=passage.version,
        kind=_KIND_NAMES.get(passage.kind, "unknown"),
        title=passage.title,
        url=passage.url,
        page=passage.page,
        start=passage.start,
        end=passage.end,
        text=passage.text,
        score=passage.score,
        dense_score=passage.dense_score,
        lexical_score=passage.lexical_score,
        published_at=moment(passage, "published_at"),
    )
