"""Documents."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from fastapi import FastAPI, Query, Request, Response

from wireroom_gateway.access import Body, Bucket, access
from wireroom_gateway.routes.application import problem_responses
from wireroom_gateway.routes.fields import IdFilter, Output, PageSize, PageToken, moment
from wireroom_gateway.routes.uploads import upload_document
from wireroom_gateway.services import Services
from wireroom_protos.rag.v1 import rag_pb2

ACCESSES = {
    "tenant": rag_pb2.DOCUMENT_ACCESS_TENANT,
    "private": rag_pb2.DOCUMENT_ACCESS_PRIVATE,
    "collections": rag_pb2.DOCUMENT_ACCESS_COLLECTIONS,
}
_ACCESS_NAMES = {value: name for name, value in ACCESSES.items()}
AccessChoice = Annotated[Literal["tenant", "private", "collections"] | None, Query(description="Who reads it")]
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
    """A document and how far its processing is. `access`: tenant, private or collections."""

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
    access: str
    created_at: datetime | None
    updated_at: datetime | None


class DocumentsOutput(Output):
    """A page of documents."""

    documents: list[DocumentOutput]
    next_page_token: str


class StatusOutput(Output):
    """`state`: received, scanned, extracted, chunked, embedded, indexed, rejected or failed."""

    id: str
    state: str
    reason_code: str
    reason: str
    pages: int
    chunks: int
    updated_at: datetime | None


def add_document_routes(
    api: FastAPI, services: Services, *, timeout: float, upload_timeout: float, max_upload_bytes: int
) -> None:
    """`/api/v1/documents`."""

    @api.post(
        "/api/v1/documents",
        status_code=202,
        tags=["documents"],
        openapi_extra=_UPLOAD_BODY,
        responses=problem_responses(404, 409, 415),
    )
    @access("docs:write", bucket=Bucket.UPLOAD, body=Body.UPLOAD)
    async def upload(
        request: Request, response: Response, access: AccessChoice = None, collection_id: IdFilter = ""
    ) -> DocumentOutput:
        document = await upload_document(
            services.documents,
            request.headers.get("content-type", ""),
            request.receive,
            time_limit=upload_timeout,
            max_file_bytes=max_upload_bytes,
            readers=ACCESSES[access] if access else rag_pb2.DOCUMENT_ACCESS_UNSPECIFIED,
            collection_id=collection_id,
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
        access=_ACCESS_NAMES.get(document.access, "unknown"),
        created_at=moment(document, "created_at"),
        updated_at=moment(document, "updated_at"),
    )
