"""Collections of documents."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

import orjson
from fastapi import FastAPI, Response
from pydantic import Field

from wireroom_gateway.access import access
from wireroom_gateway.routes.application import problem_responses
from wireroom_gateway.routes.documents import DocumentOutput, document_output
from wireroom_gateway.routes.fields import Input, Output, PageSize, PageToken, moment
from wireroom_gateway.services import Services
from wireroom_protos.rag.v1 import collections_pb2

_TEXT = r"^[^\x00]*$"
CollectionName = Annotated[str, Field(min_length=1, max_length=256, pattern=_TEXT)]
CollectionDescription = Annotated[str, Field(max_length=2_000, pattern=_TEXT)]
Visibility = Literal["private", "tenant"]
# Up to 16 entries of 64 and 512 characters; checked where they are kept.
Metadata = Annotated[dict[str, str], Field(max_length=16)]
Attributes = Annotated[dict[str, str | int | float | bool], Field(max_length=16)]
# `any` alone, or names of providers, among them `local`; checked where they are kept.
ProviderNames = Annotated[list[Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,39}$")]], Field(min_length=1, max_length=20)]
GivenId = Annotated[str, Field(min_length=1, max_length=64, pattern=_TEXT)]
VISIBILITIES = {
    "private": collections_pb2.COLLECTION_VISIBILITY_PRIVATE,
    "tenant": collections_pb2.COLLECTION_VISIBILITY_TENANT,
}
UNCHANGED = collections_pb2.COLLECTION_VISIBILITY_UNSPECIFIED
_VISIBILITY_NAMES = {value: name for name, value in VISIBILITIES.items()}


class DocumentCountsOutput(Output):
    """Members by the state of their newest version."""

    pending: int
    indexed: int
    rejected: int
    failed: int


class CollectionOutput(Output):
    """A collection. `private`: its owner sees it, and who manages all collections; `tenant`: everybody who may read documents.

    `providers`: which may receive its texts, `any` or a list of names; `local` stands for those that are marked as local.
    """

    id: str
    owner_id: str
    name: str
    description: str
    visibility: str
    metadata: dict[str, Any]
    providers: list[str]
    documents: DocumentCountsOutput
    size: int
    created_at: datetime | None
    updated_at: datetime | None


class CollectionsOutput(Output):
    """A page of collections, newest first."""

    collections: list[CollectionOutput]
    next_page_token: str


class MemberOutput(Output):
    """A document in a collection."""

    document: DocumentOutput
    attributes: dict[str, Any]
    added_at: datetime | None


class MembersOutput(Output):
    """A page of a collection's documents, newest first."""

    documents: list[MemberOutput]
    next_page_token: str


class NewCollectionInput(Input):
    """A collection, which may begin with documents."""

    name: CollectionName
    description: CollectionDescription = ""
    visibility: Visibility = "private"
    metadata: Annotated[Metadata, Field(default_factory=dict)]
    providers: Annotated[ProviderNames, Field(default_factory=lambda: ["any"])]
    document_ids: Annotated[list[GivenId], Field(max_length=500, default_factory=list)]


class CollectionChangeInput(Input):
    """What is left out stays."""

    name: CollectionName | None = None
    description: CollectionDescription | None = None
    visibility: Visibility | None = None
    metadata: Metadata | None = None
    providers: ProviderNames | None = None


class NewMemberInput(Input):
    """A document to put into a collection; one that is in it already gets these attributes."""

    document_id: GivenId
    attributes: Annotated[Attributes, Field(default_factory=dict)]


def add_collection_routes(api: FastAPI, services: Services, *, timeout: float) -> None:
    """`/api/v1/collections`."""
    stub = services.collections

    @api.post("/api/v1/collections", status_code=201, tags=["documents"], responses=problem_responses(404, 409, 415))
    @access("collections:manage:own")
    async def create_collection(body: NewCollectionInput) -> CollectionOutput:
        request = collections_pb2.CreateCollectionRequest(
            name=body.name,
            description=body.description,
            visibility=VISIBILITIES[body.visibility],
            metadata=orjson.dumps(body.metadata),
            document_ids=body.document_ids,
            providers=body.providers,
        )
        return _collection((await stub.CreateCollection(request, timeout=timeout)).collection)

    @api.get("/api/v1/collections", tags=["documents"])
    @access("docs:read")
    async def list_collections(page_size: PageSize = 50, page_token: PageToken = "") -> CollectionsOutput:
        page = collections_pb2.IdPage(size=page_size, after=page_token)
        answer = await stub.ListCollections(collections_pb2.ListCollectionsRequest(page=page), timeout=timeout)
        found = [_collection(entry) for entry in answer.collections]
        return CollectionsOutput(collections=found, next_page_token=found[-1].id if answer.has_more else "")

    @api.get("/api/v1/collections/{id}", tags=["documents"], responses=problem_responses(404))
    @access("docs:read")
    async def get_collection(id: str) -> CollectionOutput:  # noqa: A002 - the path's name for it
        answer = await stub.GetCollection(collections_pb2.GetCollectionRequest(id=id), timeout=timeout)
        return _collection(answer.collection)

    @api.patch("/api/v1/collections/{id}", tags=["documents"], responses=problem_responses(404, 409, 415))
    @access("collections:manage:own")
    async def change_collection(id: str, body: CollectionChangeInput) -> CollectionOutput:  # noqa: A002 - the path's name for it
        request = collections_pb2.UpdateCollectionRequest(
            id=id,
            name=body.name,
            description=body.description,
            visibility=VISIBILITIES[body.visibility] if body.visibility else UNCHANGED,
            metadata=orjson.dumps(body.metadata) if body.metadata is not None else None,
            providers=collections_pb2.ProviderNames(names=body.providers) if body.providers is not None else None,
        )
        return _collection((await stub.UpdateCollection(request, timeout=timeout)).collection)

    @api.delete("/api/v1/collections/{id}", status_code=204, tags=["documents"], responses=problem_responses(404))
    @access("collections:manage:own")
    async def delete_collection(id: str) -> Response:  # noqa: A002 - the path's name for it
        await stub.DeleteCollection(collections_pb2.DeleteCollectionRequest(id=id), timeout=timeout)
        return Response(status_code=204)

    @api.post("/api/v1/collections/{id}/documents", tags=["documents"], responses=problem_responses(404, 409, 415))
    @access("collections:manage:own", quotes=True)
    async def add_document(id: str, body: NewMemberInput) -> MemberOutput:  # noqa: A002 - the path's name for it
        request = collections_pb2.AddDocumentRequest(
            collection_id=id, document_id=body.document_id, attributes=orjson.dumps(body.attributes)
        )
        return _member((await stub.AddDocument(request, timeout=timeout)).member)

    @api.get("/api/v1/collections/{id}/documents", tags=["documents"], responses=problem_responses(404))
    @access("docs:read")
    async def list_collection_documents(
        id: str,  # noqa: A002 - the path's name for it
        page_size: PageSize = 50,
        page_token: PageToken = "",
    ) -> MembersOutput:
        page = collections_pb2.IdPage(size=page_size, after=page_token)
        request = collections_pb2.ListCollectionDocumentsRequest(collection_id=id, page=page)
        answer = await stub.ListCollectionDocuments(request, timeout=timeout)
        found = [_member(entry) for entry in answer.members]
        return MembersOutput(documents=found, next_page_token=found[-1].document.id if answer.has_more else "")

    @api.delete(
        "/api/v1/collections/{id}/documents/{document_id}",
        status_code=204,
        tags=["documents"],
        responses=problem_responses(404),
    )
    @access("collections:manage:own")
    async def remove_document(id: str, document_id: str) -> Response:  # noqa: A002 - the path's name for it
        request = collections_pb2.RemoveDocumentRequest(collection_id=id, document_id=document_id)
        await stub.RemoveDocument(request, timeout=timeout)
        return Response(status_code=204)


def _collection(collection: collections_pb2.Collection) -> CollectionOutput:
    return CollectionOutput(
        id=collection.id,
        owner_id=collection.owner_id,
        name=collection.name,
        description=collection.description,
        visibility=_VISIBILITY_NAMES.get(collection.visibility, "unknown"),
        metadata=orjson.loads(collection.metadata or b"{}"),
        providers=list(collection.providers) or ["any"],
        documents=DocumentCountsOutput(
            pending=collection.documents_pending,
            indexed=collection.documents_indexed,
            rejected=collection.documents_rejected,
            failed=collection.documents_failed,
        ),
        size=collection.size,
        created_at=moment(collection, "created_at"),
        updated_at=moment(collection, "updated_at"),
    )


def _member(member: collections_pb2.CollectionDocument) -> MemberOutput:
    return MemberOutput(
        document=document_output(member.document),
        attributes=orjson.loads(member.attributes or b"{}"),
        added_at=moment(member, "added_at"),
    )
