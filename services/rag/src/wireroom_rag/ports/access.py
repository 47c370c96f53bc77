"""Who reads what, and how much of it is kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol
from uuid import UUID

from wireroom_rag.domain.access import Access, Acl, Grants
from wireroom_rag.domain.document import DocumentVersion
from wireroom_rag.domain.erasure import Receipt
from wireroom_rag.domain.quota import CollectionLimits
from wireroom_rag.domain.scope import Scope


class AccessStore(Protocol):
    """What the caller does not see is NOT_FOUND; what the caller sees but may not change, FORBIDDEN."""

    async def acl(self, scope: Scope, collection_id: UUID) -> Acl:
        """The list, for whoever sees the collection."""

    async def set_acl(self, scope: Scope, collection_id: UUID, *, public: bool, readers: Grants, editors: Grants) -> Acl:
        """Replace the list; what it shares is readable, or not, from now on."""

    async def set_document_access(self, scope: Scope, document_id: UUID, access: Access) -> None:
        """Say who reads the document."""


class Versions(Protocol):
    """The kept versions."""

    async def list(self, scope: Scope, document_id: UUID, *, limit: int, before: int) -> Sequence[DocumentVersion]:
        """At most `limit` versions below `before` (0: all), newest first. NOT_FOUND for a document that the caller cannot read."""


class CollectionLimitStore(Protocol):
    """Quotas and terms of collections."""

    async def get(self, scope: Scope, collection_id: UUID) -> CollectionLimits:
        """For whoever sees the collection."""

    async def set(self, scope: Scope, collection_id: UUID, limits: CollectionLimits) -> CollectionLimits:
        """Replace them; what is over a new quota stays, and nothing is added to it."""


class Receipts(Protocol):
    """What was erased in a tenant."""

    async def receipts(self, tenant_id: UUID, *, limit: int, after: UUID | None) -> Sequence[Receipt]:
        """Newest first."""

    async def receipt(self, tenant_id: UUID, erasure_id: UUID) -> Receipt | None:
        """One of them."""
