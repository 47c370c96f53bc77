"""Find the passages that answer a query, inside a scope."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from uuid import UUID

import structlog

from wireroom_common.errors import ErrorKind, WireroomError, invalid
from wireroom_rag.chunking import Chunker
from wireroom_rag.domain.collection import MAX_COLLECTIONS, Members, Note
from wireroom_rag.domain.diversity import diversified
from wireroom_rag.domain.generation import Generation, GenerationChangedError
from wireroom_rag.domain.lexicon import Lexicon
from wireroom_rag.domain.neighbours import with_neighbours
from wireroom_rag.domain.passage import FoundPassage, Vectors
from wireroom_rag.domain.scope import Scope
from wireroom_rag.ports.collections import CollectionStore
from wireroom_rag.ports.generations import Models, ServingGeneration
from wireroom_rag.ports.index import PassageIndex
from wireroom_rag.ports.reranking import Reranker

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
    """Passages, best first. `degraded`: "lexical" if no model embedded the query, "unranked" if the reranker did not answer."""

    passages: Sequence[FoundPassage]
    degraded: Sequence[str] = ()


class Retrieve:
    """Hybrid retrieval: vectors of the serving generation's model and BM25, fused; reranked if there is a reranker.

    A model that does not answer in `query_seconds` leaves BM25 alone.
    """

    def __init__(
        self,
        index: PassageIndex,
        collections: CollectionStore,
        *,
        generations: ServingGeneration,
        models: Models,
        chunker: Callable[[], Chunker],
        reranker: Reranker | None = None,
        query_seconds: float = 3.0,
    ) -> None:
        self._index = index
        self._collections = collections
        self._generations = generations
        self._models = models
        self._chunker = chunker
        self._reranker = reranker
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
        windows, terms = await asyncio.to_thread(self._prepare, query.replace("\x00", " "))
        wanted = top_k or DEFAULT_TOP_K
        more = max(wanted, _CANDIDATES) if self._reranker is not None or diversity else wanted
        found, embedded = await self._search(
            scope, windows, terms, top_k=more, since=since, members=members, with_vectors=diversity > 0
        )
        degraded = [] if embedded or not found else [LEXICAL]
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
        windows: Sequence[str],
        terms: Mapping[str, int],
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
            vector = await self._embedded(scope.tenant_id, generation, windows)
            try:
                found = await self._index.search(
                    scope,
                    generation=generation,
                    vector=vector,
                    terms=terms,
                    top_k=top_k,
                    since=since,
                    members=members,
                    with_vectors=with_vectors,
                )
            except GenerationChangedError:
                continue
            return found, vector is not None
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

    async def _reranked(
        self, reranker: Reranker, query: str, found: Sequence[FoundPassage]
    ) -> tuple[Sequence[FoundPassage], bool]:
        try:
            scores = await reranker.scores(query, [passage.text for passage in found])
        except WireroomError as error:
            if error.kind not in _SILENT:
                raise
            _log.warning("passages_not_reranked", error=error.code)
            return found, False
        scored = [replace(passage, rerank_score=score) for passage, score in zip(found, scores, strict=True)]
        return sorted(scored, key=lambda passage: -passage.rerank_score), True

    def _prepare(self, query: str) -> tuple[list[str], dict[str, int]]:
        terms = dict(Lexicon().terms(query).most_common(_MAX_TERMS))
        return self._chunker().windows(query), terms
