"""`AccessService`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from wireroom_common.errors import invalid, not_found
from wireroom_common.ids import parse_id
from wireroom_common.principal import current_principal
from wireroom_protos.rag.v1 import access_pb2, access_pb2_grpc
from wireroom_rag.domain.access import Acl, Grants, checked_grants
from wireroom_rag.domain.document import DocumentVersion
from wireroom_rag.domain.quota import CollectionLimits
from wireroom_rag.domain.scope import Scope
from wireroom_rag.ports.access import AccessStore, CollectionLimitStore, Versions
from wireroom_rag.ports.documents import DocumentStore
from wireroom_rag.transport.documents import STATES, access_of, document_message
from wireroom_rag.transport.scopes import READ_DOCUMENTS, WRITE_DOCUMENTS, collection_scope, document_scope

_SHARE_OWN = "acl:manage:own"
_SHARE_ALL = "acl:manage"
_DEFAULT_PAGE = 50
_MAX_PAGE = 200


class AccessServicer(access_pb2_grpc.AccessServiceServicer):
    """Maps messages to the stores."""

    def __init__(self, access: AccessStore, documents: DocumentStore, versions: Versions, limits: CollectionLimitStore) -> None:
        self._access = access
        self._documents = documents
        self._versions = versions
        self._limits = limits

    async def GetAcl(self, request: access_pb2.GetAclRequest, context: Any) -> access_pb2.GetAclResponse:  # noqa: N802, ARG002 - the rpc's signature
        acl = await self._access.acl(collection_scope(), parse_id(request.collection_id, "collection"))
        return access_pb2.GetAclResponse(acl=_acl(request.collection_id, acl))

    async def SetAcl(self, request: access_pb2.SetAclRequest, context: Any) -> access_pb2.SetAclResponse:  # noqa: N802, ARG002 - the rpc's signature
        scope = _sharing_scope()
        given = request.acl
        acl = await self._access.set_acl(
            scope,
            parse_id(given.collection_id, "collection"),
            public=given.public,
            readers=_grants(given.reader_users, given.reader_roles, "readers"),
            editors=_grants(given.editor_users, given.editor_roles, "editors"),
        )
        return access_pb2.SetAclResponse(acl=_acl(given.collection_id, acl))

    async def SetDocumentAccess(  # noqa: N802 - the rpc's signature
        self,
        request: access_pb2.SetDocumentAccessRequest,
        context: Any,  # noqa: ARG002 - the rpc's signature
    ) -> access_pb2.SetDocumentAccessResponse:
        scope = document_scope(WRITE_DOCUMENTS)
        access = access_of(request.access)
        if access is None:
            raise invalid("access_unknown", "A document's access is 'tenant', 'private' or 'collections'.", field="access")
        document_id = parse_id(request.document_id, "document")
        await self._access.set_document_access(scope, document_id, access)
        document = await self._documents.get(scope, document_id)
        if document is None:
            raise not_found("document")
        return access_pb2.SetDocumentAccessResponse(document=document_message(document))

    async def ListVersions(  # noqa: N802 - the rpc's signature
        self,
        request: access_pb2.ListVersionsRequest,
        context: Any,  # noqa: ARG002 - the rpc's signature
    ) -> access_pb2.ListVersionsResponse:
        scope = document_scope(READ_DOCUMENTS)
        if request.page_size < 0 or request.before < 0:
            raise invalid("page_size_out_of_range", f"page_size must be between 1 and {_MAX_PAGE}.", field="page_size")
        size = min(request.page_size or _DEFAULT_PAGE, _MAX_PAGE)
        found = await self._versions.list(scope, parse_id(request.document_id, "document"), limit=size + 1, before=request.before)
        return access_pb2.ListVersionsResponse(versions=[_version(entry) for entry in found[:size]], has_more=len(found) > size)

    async def GetCollectionLimits(  # noqa: N802 - the rpc's signature
        self,
        request: access_pb2.GetCollectionLimitsRequest,
        context: Any,  # noqa: ARG002 - the rpc's signature
    ) -> access_pb2.GetCollectionLimitsResponse:
        found = await self._limits.get(collection_scope(), parse_id(request.collection_id, "collection"))
        return access_pb2.GetCollectionLimitsResponse(limits=_limits(found))

    async def SetCollectionLimits(  # noqa: N802 - the rpc's signature
        self,
        request: access_pb2.SetCollectionLimitsRequest,
        context: Any,  # noqa: ARG002 - the rpc's signature
    ) -> access_pb2.SetCollectionLimitsResponse:
        scope = collection_scope(change=True)
        given = request.limits
        wanted = CollectionLimits(
            max_documents=given.max_documents if given.HasField("max_documents") else None,
            max_bytes=given.max_bytes if given.HasField("max_bytes") else None,
            retention_days=given.retention_days if given.HasField("retention_days") else None,
            expires_days=given.expires_days if given.HasField("expires_days") else None,
        )
        changed = await self._limits.set(scope, parse_id(request.collection_id, "collection"), wanted)
        return access_pb2.SetCollectionLimitsResponse(limits=_limits(changed))


def _sharing_scope() -> Scope:
    principal = current_principal()
    shares_all = _SHARE_ALL in principal.permissions
    if not shares_all:
        principal.require(_SHARE_OWN)
    return replace(document_scope(READ_DOCUMENTS), manages_collections=shares_all)


def _grants(users: Any, roles: Any, field: str) -> Grants:
    return checked_grants([parse_id(user, "user") for user in users], list(roles), field)


def _acl(collection_id: str, acl: Acl) -> access_pb2.Acl:
    return access_pb2.Acl(
        collection_id=collection_id,
        owner_id=str(acl.owner_id),
        public=acl.public,
        reader_users=[str(user) for user in acl.readers.users],
        reader_roles=acl.readers.roles,
        editor_users=[str(user) for user in acl.editors.users],
        editor_roles=acl.editors.roles,
        version=acl.version,
    )


def _version(version: DocumentVersion) -> access_pb2.DocumentVersion:
    message = access_pb2.DocumentVersion(
        version=version.version,
        media_type=version.media_type,
        size=version.size,
        sha256=version.sha256,
        state=STATES[version.state],
        reason_code=version.reason_code,
        reason=version.reason,
        pages=version.pages,
        chunks=version.chunks,
        served=version.served,
    )
    message.created_at.FromDatetime(version.created_at)
    return message


def _limits(limits: CollectionLimits) -> access_pb2.CollectionLimits:
    return access_pb2.CollectionLimits(
        **{name: value for name, value in limits.settings().items() if value is not None},
        documents=limits.stored.documents,
        bytes=limits.stored.bytes,
        default_max_documents=limits.default.documents,
        default_max_bytes=limits.default.bytes,
    )
