"""`/v1/vector_stores`: collections as OpenAI's vector stores."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, Literal

import orjson
from fastapi import FastAPI, Query
from pydantic import Field

from wireroom_common.errors import invalid
from wireroom_gateway.access import access
from wireroom_gateway.routes.application import problem_responses
from wireroom_gateway.routes.collections import (
    UNCHANGED,
    VISIBILITIES,
    Attributes,
    CollectionDescription,
    GivenId,
    Metadata,
    Visibility,
)
from wireroom_gateway.routes.fields import Input, Output
from wireroom_gateway.routes.openai.objects import (
    Cursor,
    Order,
    PageLimit,
    collection_of,
    document_of,
    file_id,
    page_of,
    seconds,
    store_id,
)
from wireroom_gateway.services import Services
from wireroom_protos.rag.v1 import collections_pb2, rag_pb2

PATH = "/v1/vector_stores"
_PENDING = (
    rag_pb2.DOCUMENT_STATE_RECEIVED,
    rag_pb2.DOCUMENT_STATE_SCANNED,
    rag_pb2.DOCUMENT_STATE_EXTRACTED,
    rag_pb2.DOCUMENT_STATE_CHUNKED,
    rag_pb2.DOCUMENT_STATE_EMBEDDED,
)
_STATES = {
    "in_progress": _PENDING,
    "completed": (rag_pb2.DOCUMENT_STATE_INDEXED,),
    "failed": (rag_pb2.DOCUMENT_STATE_REJECTED, rag_pb2.DOCUMENT_STATE_FAILED),
}
_STATUS = {state: status for status, states in _STATES.items() for state in states}
# The fused score of what both ways of searching put first: 2 / (60 + 1).
_BEST_SCORE = 2 / 61
_Text = Annotated[str, Field(min_length=1, max_length=2_000, pattern=r"^[^\x00]*$")]
StoreName = Annotated[str, Field(max_length=256, pattern=r"^[^\x00]*$")]
FileStatus = Annotated[Literal["in_progress", "completed", "failed", "cancelled"] | None, Query()]


class FileCountsOutput(Output):
    """Files by status."""

    in_progress: int
    completed: int
    failed: int
    cancelled: int = 0
    total: int


class ExpiryOutput(Output):
    """After how many days without a search or a change it goes; its files stay."""

    anchor: Literal["last_active_at"] = "last_active_at"
    days: int


class VectorStoreOutput(Output):
    """A collection."""

    id: str
    object: Literal["vector_store"] = "vector_store"
    created_at: int
    name: str
    description: str
    usage_bytes: int
    file_counts: FileCountsOutput
    status: Literal["in_progress", "completed"]
    expires_after: ExpiryOutput | None = None
    expires_at: int | None = None
    last_active_at: int | None
    metadata: dict[str, Any]


class VectorStoresOutput(Output):
    """A page of vector stores."""

    object: Literal["list"] = "list"
    data: list[VectorStoreOutput]
    first_id: str | None
    last_id: str | None
    has_more: bool


class DeletedStoreOutput(Output):
    """What was deleted; its files stay."""

    id: str
    object: Literal["vector_store.deleted"] = "vector_store.deleted"
    deleted: bool = True


class LastErrorOutput(Output):
    """Why a file cannot be searched."""

    code: Literal["server_error", "unsupported_file", "invalid_file"]
    message: str


class VectorStoreFileOutput(Output):
    """A document in a collection."""

    id: str
    object: Literal["vector_store.file"] = "vector_store.file"
    created_at: int
    vector_store_id: str
    usage_bytes: int
    status: str
    last_error: LastErrorOutput | None
    attributes: dict[str, Any]


class VectorStoreFilesOutput(Output):
    """A page of a vector store's files."""

    object: Literal["list"] = "list"
    data: list[VectorStoreFileOutput]
    first_id: str | None
    last_id: str | None
    has_more: bool


class RemovedFileOutput(Output):
    """What was taken out; the file stays."""

    id: str
    object: Literal["vector_store.file.deleted"] = "vector_store.file.deleted"
    deleted: bool = True


class TextOutput(Output):
    """A text that was found."""

    type: Literal["text"] = "text"
    text: str


class SearchResultOutput(Output):
    """A passage. `score`: 1 where both ways of searching put it first; it ranks, and says nothing across queries."""

    file_id: str
    filename: str
    score: float
    attributes: dict[str, Any]
    content: list[TextOutput]


class SearchOutput(Output):
    """Passages, best first; `search_query` as it was asked, never rewritten."""

    object: Literal["vector_store.search_results.page"] = "vector_store.search_results.page"
    search_query: list[str]
    data: list[SearchResultOutput]
    has_more: bool = False
    next_page: None = None


class ExpiryInput(Input):
    """After how many days without a search or a change the store goes; its files stay."""

    anchor: Literal["last_active_at"] = "last_active_at"
    days: Annotated[int, Field(ge=1, le=365)]


class NewStoreInput(Input):
    """`visibility` is not OpenAI's: `private` (the owner alone sees the store) or `tenant`."""

    name: StoreName | None = None
    description: CollectionDescription | None = None
    file_ids: Annotated[list[GivenId], Field(max_length=500, default_factory=list)]
    metadata: Metadata | None = None
    expires_after: ExpiryInput | None = None
    chunking_strategy: dict[str, Any] | None = None
    visibility: Visibility = "private"


class StoreChangeInput(Input):
    """What is left out, or null, stays."""

    name: StoreName | None = None
    metadata: Metadata | None = None
    expires_after: ExpiryInput | None = None
    visibility: Visibility | None = None


class NewStoreFileInput(Input):
    """A file to put into a store; one that is in it already gets these attributes."""

    file_id: GivenId
    attributes: Attributes | None = None
    chunking_strategy: dict[str, Any] | None = None


class RankingInput(Input):
    """There is one ranker."""

    ranker: Literal["none", "auto", "default-2024-11-15"] = "auto"
    score_threshold: Annotated[float, Field(ge=0, le=1)] = 0.0


class SearchInput(Input):
    """`filters`: comparisons, alone or joined by `and` and `or`. `rewrite_query` has no effect."""

    query: _Text | Annotated[list[_Text], Field(min_length=1, max_length=10)]
    max_num_results: Annotated[int, Field(ge=1, le=50)] = 10
    filters: dict[str, Any] | None = None
    ranking_options: RankingInput | None = None
    rewrite_query: bool = False


def add_vector_store_routes(api: FastAPI, services: Services, *, timeout: float) -> None:
    """Reading needs `docs:read`; changing, a collection of one's own or the right to manage all."""
    _add_stores(api, services, timeout=timeout)
    _add_files(api, services, timeout=timeout)
    _add_search(api, services, timeout=timeout)


def _add_stores(api: FastAPI, services: Services, *, timeout: float) -> None:
    stub = services.collections

    @api.post(PATH, tags=["openai"], responses=problem_responses(404, 409, 415))
    @access("collections:manage:own")
    async def create_store(body: NewStoreInput) -> VectorStoreOutput:
        refuse_chunking(body.chunking_strategy)
        request = collections_pb2.CreateCollectionRequest(
            name=body.name or "",
            description=body.description or "",
            visibility=VISIBILITIES[body.visibility],
            metadata=orjson.dumps(body.metadata or {}),
            document_ids=[document_of(given) for given in body.file_ids],
            expires_days=body.expires_after.days if body.expires_after else 0,
        )
        return _store((await stub.CreateCollection(request, timeout=timeout)).collection)

    @api.get(PATH, tags=["openai"], responses=problem_responses(404))
    @access("docs:read")
    async def list_stores(
        limit: PageLimit = 20, order: Order = "desc", after: Cursor = "", before: Cursor = ""
    ) -> VectorStoresOutput:
        request = collections_pb2.ListCollectionsRequest(page=page_of(limit, order, after, before))
        answer = await stub.ListCollections(request, timeout=timeout)
        data = [_store(entry) for entry in answer.collections]
        first, last = (data[0].id, data[-1].id) if data else (None, None)
        return VectorStoresOutput(data=data, first_id=first, last_id=last, has_more=answer.has_more)

    @api.get(f"{PATH}/{{id}}", tags=["openai"], responses=problem_responses(404))
    @access("docs:read")
    async def get_store(id: str) -> VectorStoreOutput:  # noqa: A002 - the path's name for it
        request = collections_pb2.GetCollectionRequest(id=collection_of(id))
        return _store((await stub.GetCollection(request, timeout=timeout)).collection)

    @api.post(f"{PATH}/{{id}}", tags=["openai"], responses=problem_responses(404, 409, 415))
    @access("collections:manage:own")
    async def change_store(id: str, body: StoreChangeInput) -> VectorStoreOutput:  # noqa: A002 - the path's name for it
        request = collections_pb2.UpdateCollectionRequest(
            id=collection_of(id),
            name=body.name,
            visibility=VISIBILITIES[body.visibility] if body.visibility else UNCHANGED,
            metadata=orjson.dumps(body.metadata) if body.metadata is not None else None,
            expires_days=body.expires_after.days if body.expires_after else None,
        )
        return _store((await stub.UpdateCollection(request, timeout=timeout)).collection)

    @api.delete(f"{PATH}/{{id}}", tags=["openai"], responses=problem_responses(404))
    @access("collections:manage:own")
    async def delete_store(id: str) -> DeletedStoreOutput:  # noqa: A002 - the path's name for it
        collection_id = collection_of(id)
        await stub.DeleteCollection(collections_pb2.DeleteCollectionRequest(id=collection_id), timeout=timeout)
        return DeletedStoreOutput(id=store_id(collection_id))


def _add_files(api: FastAPI, services: Services, *, timeout: float) -> None:
    stub = services.collections

    @api.post(f"{PATH}/{{id}}/files", tags=["openai"], responses=problem_responses(404, 409, 415))
    @access("collections:manage:own", quotes=True)
    async def add_file(id: str, body: NewStoreFileInput) -> VectorStoreFileOutput:  # noqa: A002 - the path's name for it
        refuse_chunking(body.chunking_strategy)
        request = collections_pb2.AddDocumentRequest(
            collection_id=collection_of(id), document_id=document_of(body.file_id), attributes=orjson.dumps(body.attributes or {})
        )
        return store_file((await stub.AddDocument(request, timeout=timeout)).member)

    @api.get(f"{PATH}/{{id}}/files", tags=["openai"], responses=problem_responses(404))
    @access("docs:read")
    async def list_store_files(  # noqa: PLR0917 - FastAPI passes parameters by name
        id: str,  # noqa: A002 - the path's name for it
        limit: PageLimit = 20,
        order: Order = "desc",
        after: Cursor = "",
        before: Cursor = "",
        filter: FileStatus = None,  # noqa: A002 - OpenAI's name for it
    ) -> VectorStoreFilesOutput:
        request = collections_pb2.ListCollectionDocumentsRequest(
            collection_id=collection_of(id),
            page=page_of(limit, order, after, before, files=True),
            states=_STATES.get(filter or "", ()),
        )
        answer = await stub.ListCollectionDocuments(request, timeout=timeout)
        # Nothing is ever cancelled; that the store is there is checked all the same.
        data = [] if filter == "cancelled" else [store_file(entry) for entry in answer.members]
        first, last = (data[0].id, data[-1].id) if data else (None, None)
        return VectorStoreFilesOutput(data=data, first_id=first, last_id=last, has_more=bool(data) and answer.has_more)

    @api.get(f"{PATH}/{{id}}/files/{{file_id}}", tags=["openai"], responses=problem_responses(404))
    @access("docs:read")
    async def getstore_file(id: str, file_id: str) -> VectorStoreFileOutput:  # noqa: A002 - the path's name for it
        request = collections_pb2.GetCollectionDocumentRequest(collection_id=collection_of(id), document_id=document_of(file_id))
        return store_file((await stub.GetCollectionDocument(request, timeout=timeout)).member)

    @api.delete(f"{PATH}/{{id}}/files/{{file_id}}", tags=["openai"], responses=problem_responses(404))
    @access("collections:manage:own")
    async def remove_file(id: str, file_id: str) -> RemovedFileOutput:  # noqa: A002 - the path's name for it
        request = collections_pb2.RemoveDocumentRequest(collection_id=collection_of(id), document_id=document_of(file_id))
        await stub.RemoveDocument(request, timeout=timeout)
        return RemovedFileOutput(id=_file_id(request.document_id))


def _add_search(api: FastAPI, services: Services, *, timeout: float) -> None:
    async def attributes_of(collection_id: str, document_ids: set[str]) -> dict[str, dict[str, Any]]:
        if not document_ids:
            return {}
        request = collections_pb2.ListCollectionDocumentsRequest(
            collection_id=collection_id, page=collections_pb2.IdPage(size=len(document_ids)), document_ids=sorted(document_ids)
        )
        answer = await services.collections.ListCollectionDocuments(request, timeout=timeout)
        return {member.document.id: orjson.loads(member.attributes or b"{}") for member in answer.members}

    @api.post(f"{PATH}/{{id}}/search", tags=["openai"], responses=problem_responses(404, 415))
    @access("docs:read", prompt=True)
    async def search_store(id: str, body: SearchInput) -> SearchOutput:  # noqa: A002 - the path's name for it
        collection_id = collection_of(id)
        queries = [body.query] if isinstance(body.query, str) else body.query
        wanted = orjson.dumps(body.filters) if body.filters is not None else b""
        requests = [
            rag_pb2.RetrieveRequest(
                query=query,
                top_k=body.max_num_results,
                kinds=[rag_pb2.SOURCE_KIND_DOCUMENT],
                collection_ids=[collection_id],
                member_filter=wanted,
            )
            for query in queries
        ]
        answers = await asyncio.gather(*(services.retrieval.Retrieve(request, timeout=timeout) for request in requests))
        best: dict[str, rag_pb2.Passage] = {}
        for passage in (passage for answer in answers for passage in answer.passages):
            if passage.id not in best or passage.score > best[passage.id].score:
                best[passage.id] = passage
        threshold = (body.ranking_options or RankingInput()).score_threshold
        found = sorted(best.values(), key=lambda passage: -passage.score)[: body.max_num_results]
        found = [passage for passage in found if _score(passage) >= threshold]
        noted = await attributes_of(collection_id, {passage.document_id for passage in found})
        results = [
            SearchResultOutput(
                file_id=file_id(passage.document_id),
                filename=passage.title,
                score=_score(passage),
                attributes=noted.get(passage.document_id, {}),
                content=[TextOutput(text=passage.text)],
            )
            for passage in found
        ]
        return SearchOutput(search_query=queries, data=results)


def _score(passage: rag_pb2.Passage) -> float:
    return min(1.0, passage.score / _BEST_SCORE)


def refuse_chunking(strategy: dict[str, Any] | None) -> None:
    """INVALID for what cannot be had."""
    if strategy not in (None, {"type": "auto"}):
        raise invalid("chunking_unsupported", "Only the chunking strategy 'auto' is there.", field="chunking_strategy")


def _store(collection: collections_pb2.Collection) -> VectorStoreOutput:
    failed = collection.documents_rejected + collection.documents_failed
    pending, completed = collection.documents_pending, collection.documents_indexed
    return VectorStoreOutput(
        id=store_id(collection.id),
        created_at=seconds(collection, "created_at"),
        name=collection.name,
        description=collection.description,
        usage_bytes=collection.size,
        file_counts=FileCountsOutput(in_progress=pending, completed=completed, failed=failed, total=pending + completed + failed),
        status="in_progress" if pending else "completed",
        last_active_at=seconds(collection, "last_active_at"),
        expires_after=ExpiryOutput(days=collection.expires_days) if collection.expires_days else None,
        expires_at=seconds(collection, "last_active_at") + collection.expires_days * 86_400 if collection.expires_days else None,
        metadata=orjson.loads(collection.metadata or b"{}"),
    )


def _file_id(document_id: str) -> str:
    # Where a path's parameter has taken the name.
    return file_id(document_id)


def store_file(member: collections_pb2.CollectionDocument) -> VectorStoreFileOutput:
    """A document in a collection as a vector store's file."""
    document = member.document
    error: LastErrorOutput | None = None
    if document.state == rag_pb2.DOCUMENT_STATE_REJECTED:
        error = LastErrorOutput(code="invalid_file", message=document.reason)
    elif document.state == rag_pb2.DOCUMENT_STATE_FAILED:
        error = LastErrorOutput(code="server_error", message=document.reason)
    return VectorStoreFileOutput(
        id=file_id(document.id),
        created_at=seconds(member, "added_at"),
        vector_store_id=store_id(member.collection_id),
        usage_bytes=document.size,
        status=_STATUS.get(document.state, "in_progress"),
        last_error=error,
        attributes=orjson.loads(member.attributes or b"{}"),
    )
