"""`CollectionService`."""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID

from wireroom_common.errors import invalid
from wireroom_common.ids import parse_id
from wireroom_protos.rag.v1 import collections_pb2, collections_pb2_grpc
from wireroom_rag.domain.collection import (
    MAX_NEW_MEMBERS,
    Collection,
    CollectionChange,
    IdPage,
    Member,
    NewCollection,
    Visibility,
    checked_description,
    checked_expiry,
    checked_name,
    notes,
)
from wireroom_rag.domain.provider_terms import checked_providers
from wireroom_rag.ports.collections import CollectionStore, MemberStore
from wireroom_rag.transport.documents import STATES, document_message
from wireroom_rag.transport.scopes import collection_scope

_DEFAULT_PAGE = 50
_MAX_PAGE = 200
_FROM_STATES = {value: state for state, value in STATES.items()}
_VISIBILITIES = {
    collections_pb2.COLLECTION_VISIBILITY_PRIVATE: Visibility.PRIVATE,
    collections_pb2.COLLECTION_VISIBILITY_TENANT: Visibility.TENANT,
}
_TO_VISIBILITIES = {value: name for name, value in _VISIBILITIES.items()}


class CollectionServicer(collections_pb2_grpc.CollectionServiceServicer):
    """Maps messages to the stores."""

    def __init__(self, collections: CollectionStore, members: MemberStore) -> None:
        self._collections = collections
        self._members = members

    async def CreateCollection(  # noqa: N802 - the rpc's signature
        self,
        request: collections_pb2.CreateCollectionRequest,
        context: Any,  # noqa: ARG002 - the rpc's signature
    ) -> collections_pb2.CreateCollectionResponse:
        scope = collection_scope(change=True)
        if len(request.document_ids) > MAX_NEW_MEMBERS:
            raise invalid(
                "documents_too_many", f"A collection begins with at most {MAX_NEW_MEMBERS} documents.", field="document_ids"
            )
        new = NewCollection(
            checked_name(request.name),
            checked_description(request.description),
            _visibility(request.visibility) or Visibility.PRIVATE,
            notes(request.metadata, "metadata", texts_only=True),
            checked_expiry(request.expires_days),
            checked_providers(request.providers),
        )
        made = await self._collections.create(scope, new, [parse_id(given, "document") for given in request.document_ids])
        return collections_pb2.CreateCollectionResponse(collection=_message(made))

    async def GetCollection(  # noqa: N802 - the rpc's signature
        self,
        request: collections_pb2.GetCollectionRequest,
        context: Any,  # noqa: ARG002 - the rpc's signature
    ) -> collections_pb2.GetCollectionResponse:
        found = await self._collections.get(collection_scope(), _id(request.id))
        return collections_pb2.GetCollectionResponse(collection=_message(found))

    async def ListCollections(  # noqa: N802 - the rpc's signature
        self,
        request: collections_pb2.ListCollectionsRequest,
        context: Any,  # noqa: ARG002 - the rpc's signature
    ) -> collections_pb2.ListCollectionsResponse:
        found, more = await self._collections.list(collection_scope(), id_page(request.page))
        return collections_pb2.ListCollectionsResponse(collections=[_message(entry) for entry in found], has_more=more)

    async def UpdateCollection(  # noqa: N802 - the rpc's signature
        self,
        request: collections_pb2.UpdateCollectionRequest,
        context: Any,  # noqa: ARG002 - the rpc's signature
    ) -> collections_pb2.UpdateCollectionResponse:
        scope = collection_scope(change=True)
        change = CollectionChange(
            checked_name(request.name) if request.HasField("name") else None,
            checked_description(request.description) if request.HasField("description") else None,
            _visibility(request.visibility),
            notes(request.metadata, "metadata", texts_only=True) if request.HasField("metadata") else None,
            checked_expiry(request.expires_days) if request.HasField("expires_days") else None,
            checked_providers(request.providers.names) if request.HasField("providers") else None,
        )
        changed = await self._collections.update(scope, _id(request.id), change)
        return collections_pb2.UpdateCollectionResponse(collection=_message(changed))

    async def DeleteCollection(  # noqa: N802 - the rpc's signature
        self,
        request: collections_pb2.DeleteCollectionRequest,
        context: Any,  # noqa: ARG002 - the rpc's signature
    ) -> collections_pb2.DeleteCollectionResponse:
        await self._collections.delete(collection_scope(change=True), _id(request.id))
        return collections_pb2.DeleteCollectionResponse()

    async def AddDocument(  # noqa: N802 - the rpc's signature
        self,
        request: collections_pb2.AddDocumentRequest,
        context: Any,  # noqa: ARG002 - the rpc's signature
    ) -> collections_pb2.AddDocumentResponse:
        scope = collection_scope(change=True)
        attributes = notes(request.attributes, "attributes")
        added = await self._members.add(scope, _id(request.collection_id), parse_id(request.document_id, "document"), attributes)
        return collections_pb2.AddDocumentResponse(member=member_message(added))

    async def RemoveDocument(  # noqa: N802 - the rpc's signature
        self,
        request: collections_pb2.RemoveDocumentRequest,
        context: Any,  # noqa: ARG002 - the rpc's signature
    ) -> collections_pb2.RemoveDocumentResponse:
        scope = collection_scope(change=True)
        await self._members.remove(scope, _id(request.collection_id), parse_id(request.document_id, "document"))
        return collections_pb2.RemoveDocumentResponse()

    async def ListCollectionDocuments(  # noqa: N802 - the rpc's signature
        self,
        request: collections_pb2.ListCollectionDocumentsRequest,
        context: Any,  # noqa: ARG002 - the rpc's signature
    ) -> collections_pb2.ListCollectionDocumentsResponse:
        if len(request.document_ids) > _MAX_PAGE:
            raise invalid("documents_too_many", f"At most {_MAX_PAGE} documents can be chosen from.", field="document_ids")
        found, more = await self._members.list(
            collection_scope(),
            _id(request.collection_id),
            id_page(request.page),
            states=[_FROM_STATES[state] for state in request.states if state in _FROM_STATES],
            document_ids=[parse_id(given, "document") for given in request.document_ids],
        )
        return collections_pb2.ListCollectionDocumentsResponse(members=[member_message(entry) for entry in found], has_more=more)

    async def GetCollectionDocument(  # noqa: N802 - the rpc's signature
        self,
        request: collections_pb2.GetCollectionDocumentRequest,
        context: Any,  # noqa: ARG002 - the rpc's signature
    ) -> collections_pb2.GetCollectionDocumentResponse:
        found = await self._members.get(collection_scope(), _id(request.collection_id), parse_id(request.document_id, "document"))
        return collections_pb2.GetCollectionDocumentResponse(member=member_message(found))


def _id(text: str) -> UUID:
    return parse_id(text, "collection")


def _visibility(value: collections_pb2.CollectionVisibility.ValueType) -> Visibility | None:
    if value and value not in _VISIBILITIES:
        raise invalid("visibility_unknown", "A collection is private or visible to the tenant.", field="visibility")
    return _VISIBILITIES.get(value)


def id_page(page: collections_pb2.IdPage) -> IdPage:
    """A page by id; INVALID for one that begins at two places."""
    if page.size < 0 or (page.after and page.before):
        raise invalid(
            "page_invalid", f"A page has 1 to {_MAX_PAGE} entries and begins behind `after` or before `before`.", field="page"
        )
    return IdPage(
        min(page.size or _DEFAULT_PAGE, _MAX_PAGE),
        parse_id(page.after, "list entry") if page.after else None,
        parse_id(page.before, "list entry") if page.before else None,
        page.ascending,
    )


def _message(collection: Collection) -> collections_pb2.Collection:
    message = collections_pb2.Collection(
        id=str(collection.id),
        owner_id=str(collection.owner_id),
        name=collection.name,
        description=collection.description,
        visibility=_TO_VISIBILITIES[collection.visibility],
        metadata=json.dumps(dict(collection.metadata)).encode(),
        documents_pending=collection.pending,
        documents_indexed=collection.indexed,
        documents_rejected=collection.rejected,
        documents_failed=collection.failed,
        size=collection.size,
        expires_days=collection.expires_days,
        providers=collection.providers,
    )
    message.last_active_at.FromDatetime(collection.last_active_at)
    message.created_at.FromDatetime(collection.created_at)
    message.updated_at.FromDatetime(collection.updated_at)
    return message


def member_message(member: Member) -> collections_pb2.CollectionDocument:
    """A document in a collection, as it is told."""
    message = collections_pb2.CollectionDocument(
        document=document_message(member.document),
        collection_id=str(member.collection_id),
        attributes=json.dumps(dict(member.attributes)).encode(),
    )
    message.added_at.FromDatetime(member.added_at)
    return message
