"""The index and the stored texts. Reading takes the scope in every method, so that no implementation can be asked without one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Protocol
from uuid import UUID

from wireroom_rag.domain.collection import Members
from wireroom_rag.domain.generation import Generation
from wireroom_rag.domain.passage import BuiltText, CitedText, FoundPassage, IndexEntry, Span, Vectors, Widened
from wireroom_rag.domain.scope import Scope


class IndexWriter(Protocol):
    """Puts versions into the index. A worker does, in nobody's name: there is a tenant, but no user whose scope it could be."""

    async def write(self, tenant_id: UUID, entries: Sequence[IndexEntry]) -> int:
        """Serve these versions from now on, and not the ones before; how many were written.

        A version whose lease is lost is left alone. One that is older than what is served is marked as superseded. UNAVAILABLE when
        another generation serves by now than those that there are vectors for; one that is being built may be left out.
        """

    async def add(self, tenant_id: UUID, generation: Generation, built: BuiltText) -> None:
        """Put a served version into a generation that is being built; nothing happens when either is no longer so, or it is there."""


class PassageIndex(Protocol):
    """Finds passages."""

    async def search(
        self,
        scope: Scope,
        *,
        generation: Generation,
        vector: Vectors | None,
        terms: Mapping[str, int],
        top_k: int,
        since: datetime | None,
        members: Members | None = None,
        with_vectors: bool = False,
    ) -> Sequence[FoundPassage]:
        """The best `top_k` passages in the scope by reciprocal rank fusion; deterministic order.

        GenerationChangedError unless `generation`, whose model made `vector`, is the one that serves. VectorStoreError when vectors are
        asked for, or needed for `vector`, and in a store that does not answer.

        `vector=None` leaves out the dense leg, empty `terms` the lexical one. `since` drops older texts, not undated ones. `members`
        limits the documents; articles are left alone (the scope says whether there are any). `with_vectors`: the passages' own.
        """

    async def widened(self, scope: Scope, ids: Sequence[int]) -> Mapping[int, Widened]:
        """Each passage with the ones before and behind it on its page; those that are gone are left out."""


class StoredTexts(Protocol):
    """The texts that citations point into."""

    async def span(self, scope: Scope, span: Span, *, context: int) -> CitedText | None:
        """The span with up to `context` code points on each side; None if there is none in the scope."""

    async def spans(self, scope: Scope, spans: Sequence[Span]) -> Sequence[str | None]:
        """The text of each span, in order; None where there is none in the scope."""
