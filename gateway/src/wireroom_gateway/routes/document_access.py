"""Who reads documents and collections, how much of them is kept, and what was erased."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from fastapi import FastAPI, Query
from pydantic import Field

from wireroom_gateway.access import access
from wireroom_gateway.routes.application import problem_responses
from wireroom_gateway.routes.documents import ACCESSES, DocumentOutput, document_output
from wireroom_gateway.routes.fields import Input, Output, PageSize, PageToken, moment
from wireroom_gateway.services import Services
from wireroom_protos.rag.v1 import access_pb2, rag_pb2

_Role = Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[^\x00-\x1f\x7f]*$")]
_User = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[^\x00]*$")]
_Count = Annotated[int, Field(ge=0, le=2**53)]
_Days = Annotated[int, Field(ge=1, le=36_500)]


class GrantsInput(Input):
    """Users by id and roles by name; up to 100 together."""

    users: Annotated[list[_User], Field(max_length=100, default_factory=list)]
    roles: Annotated[list[_Role], Field(max_length=100, default_factory=list)]


class AclInput(Input):
    """The whole list. `public`: everybody of the tenant who may read documents. Editors also put documents in and take them out."""

    public: bool = False
    readers: Annotated[GrantsInput, Field(default_factory=lambda: GrantsInput.model_validate({}))]
    editors: Annotated[GrantsInput, Field(default_factory=lambda: GrantsInput.model_validate({}))]


class GrantsOutput(Output):
    """Users by id and roles by name."""

    users: list[str]
    roles: list[str]


class AclOutput(Output):
    """Who reads a collection beside its owner and who manages all collections; `version` grows with each change."""

    owner_id: str
    public: bool
    readers: GrantsOutput
    editors: GrantsOutput
    version: int


class DocumentAccessInput(Input):
    """`tenant`: everybody who may read documents; `private`: the owner; `collections`: readers of the collections that hold it."""

    access: Literal["tenant", "private", "collections"]


class VersionOutput(Output):
    """A kept version; `served`: the one that is searched."""

    version: int
    media_type: str
    size: int
    sha256: str
    state: str
    reason_code: str
    reason: str
    pages: int
    chunks: int
    created_at: datetime | None
    served: bool


class VersionsOutput(Output):
    """A page of versions, newest first."""

    versions: list[VersionOutput]
    next_page_token: str


class LimitsInput(Input):
    """Replaces all four. Null: the installation's default, and no term; a quota of 0: no limit."""

    max_documents: _Count | None = None
    max_bytes: _Count | None = None
    retention_days: _Days | None = None
    expires_days: _Days | None = None


class LimitsOutput(Output):
    """Quotas and terms of a collection, what there is, and what applies where a quota is null."""

    max_documents: int | None
    max_bytes: int | None
    retention_days: int | None
    expires_days: int | None
    documents: int
    bytes: int
    default_max_documents: int
    default_max_bytes: int


class ReceiptOutput(Output):
    """`signature`: Ed25519 (base64) over the UTF-8 bytes of `content`, by `public_key` (raw, base64). Empty while the erasure runs."""

    id: str
    requested_at: datetime | None
    completed_at: datetime | None
    content: str
    signature: str
    public_key: str


class ReceiptsOutput(Output):
    """A page of receipts, newest first."""

    receipts: list[ReceiptOutput]
    next_page_token: str


def add_document_access_routes(api: FastAPI, services: Services, *, timeout: float) -> None:
    """Access lists, access of documents, versions, limits, receipts."""
    _add_lists(api, services, timeout=timeout)
    _add_documents(api, services, timeout=timeout)
    _add_receipts(api, services, timeout=timeout)


def _add_lists(api: FastAPI, services: Services, *, timeout: float) -> None:
    stub = services.document_access

    @api.get("/api/v1/collections/{id}/acl", tags=["documents"], responses=problem_responses(404))
    @access("docs:read")
    async def get_acl(id: str) -> AclOutput:  # noqa: A002 - the path's name for it
        return _acl((await stub.GetAcl(access_pb2.GetAclRequest(collection_id=id), timeout=timeout)).acl)

    @api.put("/api/v1/collections/{id}/acl", tags=["documents"], responses=problem_responses(404, 409, 415))
    @access("acl:manage:own")
    async def set_acl(id: str, body: AclInput) -> AclOutput:  # noqa: A002 - the path's name for it
        wanted = access_pb2.Acl(
            collection_id=id,
            public=body.public,
            reader_users=body.readers.users,
            reader_roles=body.readers.roles,
            editor_users=body.editors.users,
            editor_roles=body.editors.roles,
        )
        return _acl((await stub.SetAcl(access_pb2.SetAclRequest(acl=wanted), timeout=timeout)).acl)

    @api.get("/api/v1/collections/{id}/limits", tags=["documents"], responses=problem_responses(404))
    @access("docs:read")
    async def get_limits(id: str) -> LimitsOutput:  # noqa: A002 - the path's name for it
        request = access_pb2.GetCollectionLimitsRequest(collection_id=id)
        return _limits((await stub.GetCollectionLimits(request, timeout=timeout)).limits)

    @api.put("/api/v1/collections/{id}/limits", tags=["documents"], responses=problem_responses(404, 409, 415))
    @access("collections:manage:own")
    async def set_limits(id: str, body: LimitsInput) -> LimitsOutput:  # noqa: A002 - the path's name for it
        request = access_pb2.SetCollectionLimitsRequest(
            collection_id=id, limits=access_pb2.CollectionLimits(**body.model_dump(exclude_none=True))
        )
        return _limits((await stub.SetCollectionLimits(request, timeout=timeout)).limits)


def _add_documents(api: FastAPI, services: Services, *, timeout: float) -> None:
    stub = services.document_access

    @api.put("/api/v1/documents/{id}/access", tags=["documents"], responses=problem_responses(404, 409, 415))
    @access("docs:write")
    async def set_document_access(id: str, body: DocumentAccessInput) -> DocumentOutput:  # noqa: A002 - the path's name for it
        request = access_pb2.SetDocumentAccessRequest(document_id=id, access=ACCESSES[body.access])
        return document_output((await stub.SetDocumentAccess(request, timeout=timeout)).document)

    @api.get("/api/v1/documents/{id}/versions", tags=["documents"], responses=problem_responses(404))
    @access("docs:read")
    async def list_versions(
        id: str,  # noqa: A002 - the path's name for it
        page_size: PageSize = 50,
        page_token: Annotated[int, Query(ge=0, le=2**31 - 1, description="`next_page_token` of the page before")] = 0,
    ) -> VersionsOutput:
        request = access_pb2.ListVersionsRequest(document_id=id, page_size=page_size, before=page_token)
        answer = await stub.ListVersions(request, timeout=timeout)
        found = [_version(entry) for entry in answer.versions]
        return VersionsOutput(versions=found, next_page_token=str(found[-1].version) if answer.has_more else "")


def _add_receipts(api: FastAPI, services: Services, *, timeout: float) -> None:
    stub = services.receipts

    @api.get("/api/v1/privacy/receipts", tags=["documents"], responses=problem_responses(404))
    @access("privacy:erase:tenant")
    async def list_receipts(page_size: PageSize = 50, page_token: PageToken = "") -> ReceiptsOutput:
        request = access_pb2.ListReceiptsRequest(page_size=page_size, after=page_token)
        answer = await stub.ListReceipts(request, timeout=timeout)
        found = [_receipt(entry) for entry in answer.receipts]
        return ReceiptsOutput(receipts=found, next_page_token=found[-1].id if answer.has_more else "")

    @api.get("/api/v1/privacy/receipts/{id}", tags=["documents"], responses=problem_responses(404))
    @access("privacy:erase:tenant")
    async def get_receipt(id: str) -> ReceiptOutput:  # noqa: A002 - the path's name for it
        return _receipt((await stub.GetReceipt(access_pb2.GetReceiptRequest(id=id), timeout=timeout)).receipt)


def _acl(acl: access_pb2.Acl) -> AclOutput:
    return AclOutput(
        owner_id=acl.owner_id,
        public=acl.public,
        readers=GrantsOutput(users=list(acl.reader_users), roles=list(acl.reader_roles)),
        editors=GrantsOutput(users=list(acl.editor_users), roles=list(acl.editor_roles)),
        version=acl.version,
    )


def _version(version: access_pb2.DocumentVersion) -> VersionOutput:
    return VersionOutput(
        version=version.version,
        media_type=version.media_type,
        size=version.size,
        sha256=version.sha256,
        state=rag_pb2.DocumentState.Name(version.state).removeprefix("DOCUMENT_STATE_").lower(),
        reason_code=version.reason_code,
        reason=version.reason,
        pages=version.pages,
        chunks=version.chunks,
        created_at=moment(version, "created_at"),
        served=version.served,
    )


def _limits(limits: access_pb2.CollectionLimits) -> LimitsOutput:
    return LimitsOutput(
        max_documents=limits.max_documents if limits.HasField("max_documents") else None,
        max_bytes=limits.max_bytes if limits.HasField("max_bytes") else None,
        retention_days=limits.retention_days if limits.HasField("retention_days") else None,
        expires_days=limits.expires_days if limits.HasField("expires_days") else None,
        documents=limits.documents,
        bytes=limits.bytes,
        default_max_documents=limits.default_max_documents,
        default_max_bytes=limits.default_max_bytes,
    )


def _receipt(receipt: access_pb2.ErasureReceipt) -> ReceiptOutput:
    return ReceiptOutput(
        id=receipt.id,
        requested_at=moment(receipt, "requested_at"),
        completed_at=moment(receipt, "completed_at"),
        content=receipt.content,
        signature=receipt.signature,
        public_key=receipt.public_key,
    )
