"""Embeddings of a model behind an endpoint, which gets no text that a collection of the tenant keeps from it."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_rag.domain.passage import Vectors
from wireroom_rag.domain.provider_terms import Receiver
from wireroom_rag.ports.processing import Embeddings
from wireroom_rag.ports.provider_terms import TenantTerms


class GuardedEmbeddings:
    """Implements `Embeddings`. Queries are nobody's text but the caller's."""

    def __init__(self, embeddings: Embeddings, receiver: Receiver, terms: TenantTerms, tenant_id: UUID) -> None:
        self._embeddings = embeddings
        self._receiver = receiver
        self._terms = terms
        self._tenant_id = tenant_id

    async def passages(self, texts: Sequence[str]) -> Vectors:
        """UNAVAILABLE while a collection of the tenant does not name the model's provider: settings changed after the index began."""
        if not self._receiver.may_receive(await self._terms.of_tenant(self._tenant_id)):
            raise WireroomError(
                ErrorKind.UNAVAILABLE,
                "collection_provider_not_allowed",
                "A collection of the tenant does not name the provider of the index's embedding model among those that may receive its"
                " text. Rebuild the index with the local model, or change the collection's providers.",
                retry_after=30,
            )
        return await self._embeddings.passages(texts)

    async def query(self, windows: Sequence[str]) -> Vectors:
        """As the model's own."""
        return await self._embeddings.query(windows)
