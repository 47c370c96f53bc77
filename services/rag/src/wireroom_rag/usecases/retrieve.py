"""Find the passages that answer a query, inside a scope."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from uuid import UUID

import structlog

from wireroom_common.errors import ErrorKind, WireroomError, invalid
from wireroom_rag.chunking import Chunkers
from wireroom_rag.domain.collection import MAX_COLLECTIONS, Members, Note
from wireroom_rag.domain.diversity import diversified
from wireroom_rag.domain.generation import Generation, GenerationChangedError
from wireroom_rag.domain.lexicon import Lexicon
from wireroom_rag.domain.neighbours import with_neighbours
from wireroom_rag.domain.passage import FoundPassage, Vectors
from wireroom_rag.domain.provider_terms import Receiver
from wireroom_rag.domain.scope import Scope, SourceKind
from wireroom_rag.ports.collections import CollectionStore
from wireroom_rag.ports.generations import Models, ServingGeneration
from wireroom_rag.ports.index import PassageIndex
from wireroom_rag.ports.provider_terms import DocumentTerms
from wireroom_rag.ports.reranking import Reranker
from wireroom_rag.ports.vectors import VectorStoreError

DEFAULT_TOP_K = 8
MAX_TOP_K = 50
MAX_QUERY = 4_000
# A query of more different words than this is a document; its rarest words would not be more telling.
_MAX_TERMS = 256
# What a reranker reads, and what the choice of different passages is made from.
_CANDIDATES = 50
# Each switch of the index sends a query back to be embedded once more; there cannot be that many.
_ATTEMPTS = 3
_SILENT = (ErrorKind.UNAVAILABLE, ErrorKind.DEADLINE, ErrorKind.RATE_LIMITED)
LEXICAL = "lexical"
UNRANKED = "unranked"

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Retrieved:
    """Passages, best first.

    `degraded`: "lexical" if no model embedded the query, "unranked" if the reranker did not answer, or may not read what was found.
    """

    passages: Sequence[FoundPassage]
    degraded: Sequence[str] = ()


class Retrieve:
    """Hybrid retrieval: vectors of the serving generation's model and BM25, fused; reranked if there is a reranker (`ranks`: who that is).

    A model that does not answer in `query_seconds` leaves BM25 alone.
    """

    def __init__(
        self,
        index: PassageIndex,
        collections: CollectionStore,
        *,
        generations: ServingGeneration,
        models: Models,
        chunkers: Chunkers,
        terms: DocumentTerms,
        reranker: Reranker | None = None,
        ranks: Receiver | None = None,
        query_seconds: float = 3.0,
    ) -> None:
        self._index = index
        self._collections = collections
        self._generations = generations
        self._models = models
        self._chunkers = chunkers
        self._terms = terms
        self._reranker = reranker
        self._ranks = ranks or Receiver()
        self._query_seconds = query_seconds

    async def __call__(
        self,
        scope: Scope,
        query: str,
        *,
        top_k: int,
        since: datetime | None,
        collections: Sequence[str] = (),
        attributes: Mapping[str, Note] | None = None,
        passing: str = "",
        neighbours: bool = False,
        diversity: float = 0.0,
    ) -> Retrieved:
        """At most `top_k` (1 to 50; 0 for 8) passages, best first. INVALID for empty and overlong queries.

        `collections` (ids or names) limit the documents to their members with `attributes`, and that pass `passing`
        (see `member_filter`). NOT_FOUND for one that is not visible.
        `neighbours`: each with what stands before and behind it. `diversity`: 0 for the best alone, up to 1 for the most different.
        """
        if not query.strip():
            raise invalid("query_empty", "The query is empty.", field="query")
        if len(query) > MAX_QUERY:
            raise invalid("query_too_long", f"The query has more than {MAX_QUERY} characters.", field="query")
        if not 0 <= top_k <= MAX_TOP_K:
            raise invalid("top_k_out_of_range", f"top_k must be between 1 and {MAX_TOP_K}.", field="top_k")
        if not 0 <= diversity <= 1:
            raise invalid("diversity_out_of_range", "diversity must be between 0 and 1.", field="diversity")
        if len(collections) > MAX_COLLECTIONS:
            raise invalid("collections_too_many", f"A query takes at most {MAX_COLLECTIONS} collections.", field="collection_ids")
        members = None
        if collections:
            members = Members(await self._collections.resolve(scope, collections), attributes or {}, passing)
        query = query.replace("\x00", " ")
        wanted = top_k or DEFAULT_TOP_K
        more = max(wanted, _CANDIDATES) if self._reranker is not None or diversity else wanted
        found, embedded = await self._search(scope, query, top_k=more, since=since, members=members, with_vectors=diversity > 0)
        degraded = [] if embedded or not found else [LEXICAL]
        found = await self._with_terms(scope.tenant_id, found)
        if self._reranker is not None and found:
            found, ranked = await self._reranked(self._reranker, query, found)
            degraded += [] if ranked else [UNRANKED]
        found = diversified(found, wanted, diversity) if diversity else list(found[:wanted])
        if neighbours and found:
            found = with_neighbours(found, await self._index.widened(scope, [passage.id for passage in found]))
        return Retrieved(found, degraded)

    async def _search(
        self,
        scope: Scope,
        query: str,
        *,
        top_k: int,
        since: datetime | None,
        members: Members | None,
        with_vectors: bool,
    ) -> tuple[Sequence[FoundPassage], bool]:
        """What is found, and whether by vectors, too."""
        for _ in range(_ATTEMPTS):
            generation = await self._generations.serving(scope.tenant_id)
            if generation is None:
                break
            windows, terms = await asyncio.to_thread(self._prepare, query, generation)
            vector = await self._embedded(scope.tenant_id, generation, windows)
            search = functools.partial(
                self._index.search, scope, generation=generation, terms=terms, top_k=top_k, since=since, members=members
            )
            try:
                return await search(vector=vector, with_vectors=with_vectors), vector is not None
            except GenerationChangedError:
                continue
            except VectorStoreError as error:
                _log.warning("vectors_not_searched", error=error.code)
            with contextlib.suppress(GenerationChangedError):
                return await search(vector=None, with_vectors=False), False
        return [], True

    async def _embedded(self, tenant_id: UUID, generation: Generation, windows: Sequence[str]) -> Vectors | None:
        embeddings = self._models.of(generation.blueprint, tenant_id)
        if embeddings is None:
            _log.warning("embedding_model_not_set_up", model=generation.blueprint.model)
            return None
        try:
            async with asyncio.timeout(self._query_seconds):
                return await embeddings.query(windows)
        except TimeoutError:
            _log.warning("query_not_embedded", model=generation.blueprint.model, error="timeout")
        except WireroomError as error:
            if error.kind not in _SILENT:
                raise
            _log.warning("query_not_embedded", model=generation.blueprint.model, error=error.code)
        return None

    async def _with_terms(self, tenant_id: UUID, found: Sequence[FoundPassage]) -> Sequence[FoundPassage]:
        """Each with what the collections of its document say. Articles are in none."""
        documents = {passage.document_id for passage in found if passage.kind is SourceKind.DOCUMENT}
        terms = await self._terms.of_documents(tenant_id, documents) if documents else {}
        return [replace(passage, provider_terms=terms.get(passage.document_id, ())) for passage in found] if terms else found

    async def _reranked(
        self, reranker: Reranker, query: str, found: Sequence[FoundPassage]
    ) -> tuple[Sequence[FoundPassage], bool]:
        if not all(self._ranks.may_receive(passage.provider_terms) for passage in found):
            # Scores of some beside fused ranks of others would be no order.
            return found, False
        try:
            scores = await reranker.scores(query, [passage.text for passage in found])
        except WireroomError as error:
            if error.kind not in _SILENT:
                raise
            _log.warning("passages_not_reranked", error=error.code)
            return found, False
        scored = [replace(passage, rerank_score=score) for passage, score in zip(found, scores, strict=True)]
        return sorted(scored, key=lambda passage: -passage.rerank_score), True

    def _prepare(self, query: str, generation: Generation) -> tuple[list[str], dict[str, int]]:
        terms = dict(Lexicon().terms(query).most_common(_MAX_TERMS))
        return self._chunkers.of(generation.blueprint.chunker).windows(query), terms
