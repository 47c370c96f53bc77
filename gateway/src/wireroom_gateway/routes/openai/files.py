"""`/v1/files`: the tenant's documents as OpenAI's files."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import FastAPI, Query, Request, Response

from wireroom_gateway.access import Body, Bucket, access
from wireroom_gateway.problems import http_problem
from wireroom_gateway.routes.application import problem_responses
from wireroom_gateway.routes.downloads import CONTENT, download
from wireroom_gateway.routes.fields import Output
from wireroom_gateway.routes.openai.objects import Cursor, Order, document_of, file_id, seconds
from wireroom_gateway.routes.uploads import upload_document
from wireroom_gateway.services import Services
from wireroom_protos.rag.v1 import rag_pb2

PATH = "/v1/files"
# What documents are for; both are kept as the first.
_PURPOSES = ("assistants", "user_data")
_MOST = 200
_STATUS = {
    rag_pb2.DOCUMENT_STATE_INDEXED: "processed",
    rag_pb2.DOCUMENT_STATE_REJECTED: "error",
    rag_pb2.DOCUMENT_STATE_FAILED: "error",
}
_UPLOAD_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file", "purpose"],
                    "properties": {
                        "file": {"type": "string", "contentMediaType": "application/octet-stream"},
                        "purpose": {"enum": list(_PURPOSES)},
                    },
                }
            }
        },
    }
}


class FileOutput(Output):
    """A document; `status` is `processed` when it can be searched."""

    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    expires_at: int | None = None
    filename: str
    purpose: Literal["assistants"] = "assistants"
    status: str
    status_details: str | None


class FilesOutput(Output):
    """A page of files."""

    object: Literal["list"] = "list"
    data: list[FileOutput]
    first_id: str | None
    last_id: str | None
    has_more: bool


class DeletedFileOutput(Output):
    """What was deleted."""

    id: str
    object: Literal["file"] = "file"
    deleted: bool = True


def add_file_routes(api: FastAPI, services: Services, *, timeout: float, upload_timeout: float, max_upload_bytes: int) -> None:
    """Who may read documents sees the files of the whole tenant."""
    stub = services.documents

    @api.post(PATH, tags=["openai"], openapi_extra=_UPLOAD_BODY, responses=problem_responses(409, 415))
    @access("docs:write", bucket=Bucket.UPLOAD, body=Body.UPLOAD)
    async def create_file(request: Request) -> FileOutput:
        document = await upload_document(
            stub,
            request.headers.get("content-type", ""),
            request.receive,
            time_limit=upload_timeout,
            max_file_bytes=max_upload_bytes,
            fields={"purpose": _check_purpose},
        )
        return _file(document)

    @api.get(PATH, tags=["openai"], responses=problem_responses(404))
    @access("docs:read")
    async def list_files(
        limit: Annotated[int, Query(ge=1, le=10_000, description=f"At most {_MOST} are on a page")] = _MOST,
        order: Order = "desc",
        after: Cursor = "",
        purpose: Annotated[str, Query(max_length=64)] = "",
    ) -> FilesOutput:
        if purpose not in {"", "assistants"}:
            return FilesOutput(data=[], first_id=None, last_id=None, has_more=False)
        request = rag_pb2.ListDocumentsRequest(
            page_size=min(limit, _MOST), after=document_of(after) if after else "", ascending=order == "asc"
        )
        answer = await stub.ListDocuments(request, timeout=timeout)
        data = [_file(document) for document in answer.documents]
        first, last = (data[0].id, data[-1].id) if data else (None, None)
        return FilesOutput(data=data, first_id=first, last_id=last, has_more=bool(answer.next_page_token))

    @api.get(f"{PATH}/{{id}}", tags=["openai"], responses=problem_responses(404))
    @access("docs:read")
    async def get_file(id: str) -> FileOutput:  # noqa: A002 - the path's name for it
        return _file((await stub.GetDocument(rag_pb2.GetDocumentRequest(id=document_of(id)), timeout=timeout)).document)

    @api.delete(f"{PATH}/{{id}}", tags=["openai"], responses=problem_responses(404))
    @access("docs:write")
    async def delete_file(id: str) -> DeletedFileOutput:  # noqa: A002 - the path's name for it
        document_id = document_of(id)
        await stub.DeleteDocument(rag_pb2.DeleteDocumentRequest(id=document_id), timeout=timeout)
        return DeletedFileOutput(id=file_id(document_id))

    @api.get(f"{PATH}/{{id}}/content", tags=["openai"], response_class=Response, responses=CONTENT)
    @access("docs:read")
    async def file_content(id: str) -> Response:  # noqa: A002 - the path's name for it
        request = rag_pb2.GetContentRequest(id=document_of(id))
        return await download(stub.GetContent(request, timeout=upload_timeout))


def _check_purpose(purpose: str) -> None:
    if purpose not in _PURPOSES:
        raise http_problem(
            400, f"Files are taken for the purposes {' and '.join(_PURPOSES)} only: to be searched.", code="purpose_unsupported"
        )


def _file(document: rag_pb2.Document) -> FileOutput:
    return FileOutput(
        id=file_id(document.id),
        bytes=document.size,
        created_at=seconds(document, "created_at"),
        filename=document.name,
        status=_STATUS.get(document.state, "uploaded"),
        status_details=document.reason or None,
    )
