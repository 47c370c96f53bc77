"""Which providers may receive the texts of documents."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol
from uuid import UUID

from wireroom_rag.domain.provider_terms import Terms


class DocumentTerms(Protocol):
    """What the collections of documents say, all of them, whoever sees them."""

    async def of_documents(self, tenant_id: UUID, document_ids: Collection[UUID]) -> Mapping[UUID, Sequence[Terms]]:
        """By document: one entry for each collection with terms; documents without any are left out."""


class TenantTerms(Protocol):
    """What the collections of a tenant say."""

    async def of_tenant(self, tenant_id: UUID) -> Sequence[Terms]:
        """Each that any collection has, once."""
