"""Find the passages that answer a query, inside a scope."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime

from wireroom_common.errors import invalid
from wireroom_rag.chunking import Chunker
from wireroom_rag.domain.collection import MAX_COLLECTIONS, Members, Note
from wireroom_rag.domain.lexicon import Lexicon
from wireroom_rag.domain.passage import FoundPassage
from wireroom_rag.domain.scope import Scope
from wireroom_rag.ports.collections import CollectionStore
from wireroom_rag.ports.index import PassageIndex
from wireroom_rag.ports.processing import Embeddings

DEFAULT_TOP_K = 8
MAX_TOP_K = 50
MAX_QUERY = 4_000
# A query of more different words than this is a document; its rarest words would not be more telling.
_MAX_TERMS = 256


class Retrieve:
    """Hybrid retrieval: vectors and BM25, fused."""

    def __init__(
        self, index: PassageIndex, collections: CollectionStore, embeddings: Embeddings, chunker: Callable[[], Chunker]
    ) -> None:
        self._index = index
        self._collections = collections
        self._embeddings = embeddings
        self._chunker = chunker

    async def __call__(
        self,
        scope: Scope,
        query: str,
        *,
        top_k: int,
        since: datetime | None,
        collections: Sequence[str] = (),
        attributes: Mapping[str, Note] | None = None,
    ) -> Sequence[FoundPassage]:
        """At most `top_k` (1 to 50; 0 for 8) passages, best first. INVALID for empty and overlong queries.

        `collections` (ids or names) limit the documents to their members with `attributes`. NOT_FOUND for one that is not visible.
        """
        if not query.strip():
            raise invalid("query_empty", "The query is empty.", field="query")
        if len(query) > MAX_QUERY:
            raise invalid("query_too_long", f"The query has more than {MAX_QUERY} characters.", field="query")
        if not 0 <= top_k <= MAX_TOP_K:
            raise invalid("top_k_out_of_range", f"top_k must be between 1 and {MAX_TOP_K}.", field="top_k")
        if len(collections) > MAX_COLLECTIONS:
            raise invalid("collections_too_many", f"A query takes at most {MAX_COLLECTIONS} collections.", field="collection_ids")
        members = Members(await self._collections.resolve(scope, collections), attributes or {}) if collections else None
        windows, terms = await asyncio.to_thread(self._prepare, query.replace("\x00", " "))
        vector = await self._embeddings.query(windows)
        return await self._index.search(
            scope, vector=vector, terms=terms, top_k=top_k or DEFAULT_TOP_K, since=since, members=members
        )

    def _prepare(self, query: str) -> tuple[list[str], dict[str, int]]:
        terms = dict(Lexicon().terms(query).most_common(_MAX_TERMS))
        return self._chunker().windows(query), terms
