"""`/v1/vector_stores/{id}/file_batches`: files put into a vector store together."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import orjson
from fastapi import FastAPI
from pydantic import Field

from wireroom_common.errors import invalid
from wireroom_gateway.access import access
from wireroom_gateway.routes.application import problem_responses
from wireroom_gateway.routes.collections import Attributes, GivenId
from wireroom_gateway.routes.fields import Input, Output
from wireroom_gateway.routes.openai.objects import (
    Cursor,
    Order,
    PageLimit,
    batch_id,
    batch_of,
    collection_of,
    document_of,
    file_id,
    page_of,
    seconds,
    store_id,
)
from wireroom_gateway.routes.openai.vector_stores import (
    PATH,
    FileCountsOutput,
    FileStatus,
    VectorStoreFileOutput,
    VectorStoreFilesOutput,
    refuse_chunking,
    store_file,
)
from wireroom_gateway.services import Services
from wireroom_protos.rag.v1 import file_batches_pb2

MAX_FILES = 500
_STATUSES = {
    "in_progress": file_batches_pb2.BATCH_DOCUMENT_STATUS_PENDING,
    "completed": file_batches_pb2.BATCH_DOCUMENT_STATUS_INDEXED,
    "failed": file_batches_pb2.BATCH_DOCUMENT_STATUS_FAILED,
    "cancelled": file_batches_pb2.BATCH_DOCUMENT_STATUS_CANCELLED,
}
_STATUS_NAMES = {value: name for name, value in _STATUSES.items()}


class BatchFileInput(Input):
    """A file with attributes of its own."""

    file_id: GivenId
    attributes: Attributes | None = None
    chunking_strategy: dict[str, Any] | None = None


class NewFileBatchInput(Input):
    """Up to 500 files, by `file_ids` (with the same `attributes`) or by `files`, not both."""

    file_ids: Annotated[list[GivenId] | None, Field(min_length=1, max_length=MAX_FILES)] = None
    files: Annotated[list[BatchFileInput] | None, Field(min_length=1, max_length=MAX_FILES)] = None
    attributes: Attributes | None = None
    chunking_strategy: dict[str, Any] | None = None


class FileBatchOutput(Output):
    """A file batch. `cancelled` counts also files that left the store, or were deleted, since."""

    id: str
    object: Literal["vector_store.files_batch"] = "vector_store.files_batch"
    created_at: int
    vector_store_id: str
    status: Literal["in_progress", "completed", "cancelled"]
    file_counts: FileCountsOutput


def add_file_batch_routes(api: FastAPI, services: Services, *, timeout: float) -> None:
    """A batch is its owner's, and theirs who manage all collections."""
    stub = services.file_batches

    @api.post(f"{PATH}/{{id}}/file_batches", tags=["openai"], responses=problem_responses(404, 409, 415))
    @access("collections:manage:own")
    async def create_file_batch(id: str, body: NewFileBatchInput) -> FileBatchOutput:  # noqa: A002 - the path's name for it
        request = file_batches_pb2.CreateFileBatchRequest(collection_id=collection_of(id), documents=_documents(body))
        return _batch((await stub.CreateFileBatch(request, timeout=timeout)).batch)

    @api.get(f"{PATH}/{{id}}/file_batches/{{batch_id}}", tags=["openai"], responses=problem_responses(404))
    @access("docs:read")
    async def get_file_batch(id: str, batch_id: str) -> FileBatchOutput:  # noqa: A002 - the path's name for it
        request = file_batches_pb2.GetFileBatchRequest(collection_id=collection_of(id), id=batch_of(batch_id))
        return _batch((await stub.GetFileBatch(request, timeout=timeout)).batch)

    @api.post(f"{PATH}/{{id}}/file_batches/{{batch_id}}/cancel", tags=["openai"], responses=problem_responses(404, 409))
    @access("collections:manage:own")
    async def cancel_file_batch(id: str, batch_id: str) -> FileBatchOutput:  # noqa: A002 - the path's name for it
        request = file_batches_pb2.CancelFileBatchRequest(collection_id=collection_of(id), id=batch_of(batch_id))
        return _batch((await stub.CancelFileBatch(request, timeout=timeout)).batch)

    @api.get(f"{PATH}/{{id}}/file_batches/{{batch_id}}/files", tags=["openai"], responses=problem_responses(404))
    @access("docs:read")
    async def list_file_batch_files(  # noqa: PLR0917 - FastAPI passes parameters by name
        id: str,  # noqa: A002 - the path's name for it
        batch_id: str,
        limit: PageLimit = 20,
        order: Order = "desc",
        after: Cursor = "",
        before: Cursor = "",
        filter: FileStatus = None,  # noqa: A002 - OpenAI's name for it
    ) -> VectorStoreFilesOutput:
        collection_id = collection_of(id)
        request = file_batches_pb2.ListFileBatchDocumentsRequest(
            collection_id=collection_id,
            id=batch_of(batch_id),
            page=page_of(limit, order, after, before, files=True),
            status=_STATUSES.get(filter or "", file_batches_pb2.BATCH_DOCUMENT_STATUS_UNSPECIFIED),
        )
        answer = await stub.ListFileBatchDocuments(request, timeout=timeout)
        data = [_file(collection_id, entry) for entry in answer.documents]
        first, last = (data[0].id, data[-1].id) if data else (None, None)
        return VectorStoreFilesOutput(data=data, first_id=first, last_id=last, has_more=answer.has_more)


def _documents(body: NewFileBatchInput) -> list[file_batches_pb2.NewBatchDocument]:
    if (body.file_ids is None) == (body.files is None):
        raise invalid("file_batch_invalid", "Give 'file_ids' or 'files', not both.", field="file_ids")
    if body.files is not None and (body.attributes is not None or body.chunking_strategy is not None):
        raise invalid("file_batch_invalid", "With 'files', each file has its own attributes and strategy.", field="files")
    refuse_chunking(body.chunking_strategy)
    files = body.files or [BatchFileInput(file_id=given, attributes=body.attributes) for given in body.file_ids or ()]
    for file in files:
        refuse_chunking(file.chunking_strategy)
    return [
        file_batches_pb2.NewBatchDocument(document_id=document_of(file.file_id), attributes=orjson.dumps(file.attributes or {}))
        for file in files
    ]


def _batch(batch: file_batches_pb2.FileBatch) -> FileBatchOutput:
    pending, completed = batch.documents_pending, batch.documents_indexed
    failed, cancelled = batch.documents_failed, batch.documents_cancelled
    status: Literal["in_progress", "completed", "cancelled"] = "in_progress" if pending else "completed"
    return FileBatchOutput(
        id=batch_id(batch.id),
        created_at=seconds(batch, "created_at"),
        vector_store_id=store_id(batch.collection_id),
        status="cancelled" if batch.cancelled else status,
        file_counts=FileCountsOutput(
            in_progress=pending,
            completed=completed,
            failed=failed,
            cancelled=cancelled,
            total=pending + completed + failed + cancelled,
        ),
    )


def _file(collection_id: str, entry: file_batches_pb2.BatchDocument) -> VectorStoreFileOutput:
    if entry.HasField("member"):
        return store_file(entry.member)
    # Out of the store, or not to be read: nothing is told but what became of it.
    return VectorStoreFileOutput(
        id=file_id(entry.document_id),
        created_at=0,
        vector_store_id=store_id(collection_id),
        usage_bytes=0,
        status=_STATUS_NAMES.get(entry.status, "cancelled"),
        last_error=None,
        attributes={},
    )
