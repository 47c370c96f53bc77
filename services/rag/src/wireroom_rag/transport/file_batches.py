"""`FileBatchService`."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from wireroom_common.errors import invalid
from wireroom_common.ids import parse_id
from wireroom_protos.rag.v1 import file_batches_pb2 as messages
from wireroom_protos.rag.v1 import file_batches_pb2_grpc
from wireroom_rag.domain.collection import notes
from wireroom_rag.domain.file_batch import MAX_DOCUMENTS, BatchEntry, BatchStatus, FileBatch, NewEntry
from wireroom_rag.ports.file_batches import FileBatchStore
from wireroom_rag.transport.collections import id_page, member_message
from wireroom_rag.transport.scopes import collection_scope

_STATUSES = {
    messages.BATCH_DOCUMENT_STATUS_PENDING: BatchStatus.PENDING,
    messages.BATCH_DOCUMENT_STATUS_INDEXED: BatchStatus.INDEXED,
    messages.BATCH_DOCUMENT_STATUS_FAILED: BatchStatus.FAILED,
    messages.BATCH_DOCUMENT_STATUS_CANCELLED: BatchStatus.CANCELLED,
}
_TO_STATUSES = {status: value for value, status in _STATUSES.items()}


class FileBatchServicer(file_batches_pb2_grpc.FileBatchServiceServicer):
    """Maps messages to the store."""

    def __init__(self, batches: FileBatchStore) -> None:
        self._batches = batches

    async def CreateFileBatch(  # noqa: N802 - the rpc's signature
        self,
        request: messages.CreateFileBatchRequest,
        context: Any,  # noqa: ARG002 - the rpc's signature
    ) -> messages.CreateFileBatchResponse:
        scope = collection_scope(change=True)
        entries = [
            NewEntry(parse_id(given.document_id, "document"), notes(given.attributes, "attributes"))
            for given in request.documents[: MAX_DOCUMENTS + 1]
        ]
        if not 1 <= len(entries) <= MAX_DOCUMENTS:
            raise invalid("documents_out_of_range", f"A batch has 1 to {MAX_DOCUMENTS} documents.", field="documents")
        if len({entry.document_id for entry in entries}) < len(entries):
            raise invalid("documents_repeated", "A batch names each document once.", field="documents")
        made = await self._batches.create(scope, _collection(request.collection_id), entries)
        return messages.CreateFileBatchResponse(batch=_message(made))

    async def GetFileBatch(  # noqa: N802 - the rpc's signature
        self,
        request: messages.GetFileBatchRequest,
        context: Any,  # noqa: ARG002 - the rpc's signature
    ) -> messages.GetFileBatchResponse:
        found = await self._batches.get(collection_scope(), _collection(request.collection_id), _batch(request.id))
        return messages.GetFileBatchResponse(batch=_message(found))

    async def CancelFileBatch(  # noqa: N802 - the rpc's signature
        self,
        request: messages.CancelFileBatchRequest,
        context: Any,  # noqa: ARG002 - the rpc's signature
    ) -> messages.CancelFileBatchResponse:
        scope = collection_scope(change=True)
        found = await self._batches.cancel(scope, _collection(request.collection_id), _batch(request.id))
        return messages.CancelFileBatchResponse(batch=_message(found))

    async def ListFileBatchDocuments(  # noqa: N802 - the rpc's signature
        self,
        request: messages.ListFileBatchDocumentsRequest,
        context: Any,  # noqa: ARG002 - the rpc's signature
    ) -> messages.ListFileBatchDocumentsResponse:
        found, more = await self._batches.list(
            collection_scope(),
            _collection(request.collection_id),
            _batch(request.id),
            id_page(request.page),
            _STATUSES.get(request.status),
        )
        return messages.ListFileBatchDocumentsResponse(documents=[_entry(entry) for entry in found], has_more=more)


def _collection(given: str) -> UUID:
    return parse_id(given, "collection")


def _batch(given: str) -> UUID:
    return parse_id(given, "file batch")


def _message(batch: FileBatch) -> messages.FileBatch:
    message = messages.FileBatch(
        id=str(batch.id),
        collection_id=str(batch.collection_id),
        cancelled=batch.cancelled,
        documents_pending=batch.counts.get(BatchStatus.PENDING, 0),
        documents_indexed=batch.counts.get(BatchStatus.INDEXED, 0),
        documents_failed=batch.counts.get(BatchStatus.FAILED, 0),
        documents_cancelled=batch.counts.get(BatchStatus.CANCELLED, 0),
    )
    message.created_at.FromDatetime(batch.created_at)
    return message


def _entry(entry: BatchEntry) -> messages.BatchDocument:
    return messages.BatchDocument(
        document_id=str(entry.document_id),
        status=_TO_STATUSES[entry.status],
        member=member_message(entry.member) if entry.member is not None else None,
    )
