"""Reading the index: what is near and what has the words, fused, and then read as rows that the caller may see.

Small scopes are read whole, and words are scored in them alone; of large ones the graph and the scores of all chunks give the best, which
are looked up from the top down until enough are visible. Nothing is scored and nobody else is called while a transaction is open.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import numpy as np
import structlog
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from wireroom_common.clock import Clock, SystemClock
from wireroom_common.db import Database
from wireroom_rag.adapters import binary_rows, vectors_pg
from wireroom_rag.adapters.connections import scoped
from wireroom_rag.adapters.postings_sql import StemBlocks, read_blocks
from wireroom_rag.adapters.search_scope_sql import PLANNING, Filter, Scanned, SearchScope, scan, search_scope
from wireroom_rag.domain.bm25 import Scored, scored
from wireroom_rag.domain.collection import Members
from wireroom_rag.domain.fusion import FIRST_PLACE, Fused, fuse
from wireroom_rag.domain.generation import POSTGRESQL, Generation
from wireroom_rag.domain.passage import FoundPassage, Vectors, Widened
from wireroom_rag.domain.scope import Scope, SourceKind
from wireroom_rag.ports.vectors import Sought, VectorIndex, not_set_up

# Up to so many chunks a scan is as fast as the graph, and exact; above it the graph is walked until the filter is satisfied.
EXACT_UP_TO = 20_000
# Candidates of each leg.
_DEPTH = 100
# Today's news gains half of what the first place of a leg is worth.
_RECENCY_WEIGHT = 0.5 * FIRST_PLACE
# How many are looked up at first, how many more each time, at most by one statement, and how often a store outside is asked.
_LOOKED_UP = 200
_MORE = 4
_MOST_LOOKED_UP = 5_000
_ASKED = 3
# Queries that read the index and score its words at a time: of a large one, each holds up to 128 MB and 100 bytes a chunk meanwhile.
_SCORED_AT_ONCE = 4

_SEEN = "SELECT c.id FROM chunks c WHERE c.id = ANY(%(ids)s) AND {visible}"
_DATES = "SELECT c.id, c.published_at FROM chunks c WHERE c.id = ANY(%(ids)s) AND c.kind = 'article' AND {visible}"
_ROWS = """
SELECT c.id, c.document_id, c.version, c.kind, v.title, v.url, c.page, c.start_at, c.end_at, c.content, c.published_at, {vector}
  FROM chunks c
  JOIN document_versions v ON v.tenant_id = c.tenant_id AND v.document_id = c.document_id AND v.version = c.version
 WHERE c.id = ANY(%(ids)s) AND {visible}
"""
_WIDENED = """
SELECT c.id, w.start_at, w.end_at, substr(v.content, w.start_at + 1, w.end_at - w.start_at) AS span
  FROM chunks c
  JOIN document_versions v ON v.tenant_id = c.tenant_id AND v.document_id = c.document_id AND v.version = c.version
  CROSS JOIN LATERAL (
      SELECT COALESCE((SELECT p.start_at FROM chunks p
                        WHERE p.tenant_id = c.tenant_id AND p.document_id = c.document_id AND p.version = c.version
                          AND p.generation = c.generation AND p.page = c.page AND p.start_at < c.start_at
                        ORDER BY p.start_at DESC LIMIT 1), c.start_at) AS start_at,
             COALESCE((SELECT n.end_at FROM chunks n
                        WHERE n.tenant_id = c.tenant_id AND n.document_id = c.document_id AND n.version = c.version
                          AND n.generation = c.generation AND n.page = c.page AND n.start_at > c.start_at
                        ORDER BY n.start_at LIMIT 1), c.end_at) AS end_at) w
 WHERE c.tenant_id = :tenant_id AND c.id = ANY(CAST(:ids AS bigint[])) AND c.kind = ANY(CAST(:kinds AS text[]))
"""

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class _Query:
    scope: Scope
    generation: Generation
    vector: Vectors | None
    terms: Mapping[str, int]
    top_k: int
    since: datetime | None
    members: Members | None
    with_vectors: bool

    @property
    def depth(self) -> int:
        return max(_DEPTH, self.top_k)

    @property
    def inside(self) -> bool:
        """Whether the vectors stand in the chunks' rows."""
        return self.generation.store == POSTGRESQL


@dataclass(frozen=True)
class _Read:
    """What the first transaction found."""

    where: SearchScope
    scanned: Scanned | None
    near: Sequence[tuple[int, float]]
    blocks: StemBlocks | None


@dataclass(frozen=True)
class _Legs:
    near: Sequence[tuple[int, float]]
    words: Sequence[tuple[int, float]]
    scores: Scored | None


class IndexReader:
    """Implements `PassageIndex`; row-level security holds tenant and readers even if a query did not.

    `outside` has the vectors of generations that say so.
    """

    def __init__(
        self,
        database: Database,
        *,
        outside: VectorIndex | None = None,
        exact_up_to: int = EXACT_UP_TO,
        news_half_life_days: float = 0.0,
        clock: Clock | None = None,
    ) -> None:
        self._database = database
        self._outside = outside
        self._exact_up_to = exact_up_to
        self._half_life = news_half_life_days * 86_400
        self._clock = clock or SystemClock()
        self._scoring = asyncio.Semaphore(_SCORED_AT_ONCE)

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
        asked for and in another store, which does not answer.
        `vector=None` leaves out the dense leg, empty `terms` the lexical one. `since` drops older texts, not undated ones. `members`
        limits the documents; articles are left alone (the scope says whether there are any). `with_vectors`: the passages' own.
        """
        query = _Query(scope, generation, vector, terms, top_k, since, members, with_vectors)
        async with self._scoring:
            read = await self._read(query)
            if read is None:
                return []
            scores = await asyncio.to_thread(_scores, query, read) if read.blocks is not None else None
            # What takes the room is not needed any more.
            read = replace(read, blocks=None)
        near = read.near if query.inside else await self._near_outside(query, read)
        async with scoped(self._database, scope, PLANNING) as connection:
            words: Sequence[tuple[int, float]] = []
            if scores is not None and read.scanned is not None:
                words = scores.best(query.depth)
            elif scores is not None:
                words = await _best_visible(connection, read.where.filter, scores, query.depth)
            legs = _Legs(near, words, scores)
            placed = await self._placed(connection, query, read.where.filter, fuse(near, words, limit=2 * query.depth))
            rows = await _first_visible(connection, query, read.where.filter, [fused.id for fused, _ in placed])
        vectors: Mapping[int, Vectors] = {}
        if with_vectors and rows and not query.inside and self._outside is not None:
            vectors = await self._outside.vectors(scope.tenant_id, generation, list(rows))
        return [_passage(rows[fused.id], fused, recency, legs, vectors) for fused, recency in placed if fused.id in rows]

    async def widened(self, scope: Scope, ids: Sequence[int]) -> Mapping[int, Widened]:
        """Each passage with the ones before and behind it on its page; those that are gone are left out."""
        async with scoped(self._database, scope) as connection:
            rows = await connection.execute(
                text(_WIDENED), {"tenant_id": scope.tenant_id, "ids": list(ids), "kinds": sorted(scope.kinds)}
            )
            return {row.id: Widened(row.start_at, row.end_at, row.span) for row in rows}

    async def _read(self, query: _Query) -> _Read | None:
        async with scoped(self._database, query.scope, PLANNING) as connection:
            where = await search_scope(
                connection,
                query.scope,
                query.generation,
                since=query.since,
                members=query.members,
                small_up_to=self._exact_up_to,
            )
            if where is None:
                return None
            vector = query.vector if query.inside else None
            scanned, near = None, []
            if where.small and (query.vector is not None or query.members is not None):
                scanned = await scan(connection, where.filter, None if vector is None else vectors_pg.literal(vector))
            elif vector is not None:
                near = await vectors_pg.nearest(connection, where.filter, vector, query.depth)
            blocks = None
            if query.terms:
                blocks = await read_blocks(
                    connection,
                    query.scope.tenant_id,
                    query.generation.number,
                    list(query.terms),
                    chunks=where.totals.chunks,
                    lengths=scanned is None,
                )
        return _Read(where, scanned, near if scanned is None else scanned.nearest(query.depth), blocks)

    async def _near_outside(self, query: _Query, read: _Read) -> Sequence[tuple[int, float]]:
        """What the store outside finds and the caller may see."""
        if query.vector is None:
            return []
        if self._outside is None:
            _log.warning("vector_store_not_set_up", store=query.generation.store)
            raise not_set_up()
        ids = None if read.scanned is None else read.scanned.population.ids
        sought = Sought(query.scope, query.generation, query.vector, query.since, query.members, ids)
        depth = query.depth
        visible: list[tuple[int, float]] = []
        for _ in range(_ASKED):
            found = await self._outside.nearest(sought, depth)
            if ids is not None:
                seen = set(np.intersect1d(ids, [chunk_id for chunk_id, _ in found]).tolist())
            else:
                async with scoped(self._database, query.scope, PLANNING) as connection:
                    seen = await _seen(connection, read.where.filter, [chunk_id for chunk_id, _ in found])
            visible = [one for one in found if one[0] in seen][: query.depth]
            if len(visible) == query.depth or len(found) < depth:
                break
            depth *= _MORE
        return visible

    async def _placed(
        self, connection: AsyncConnection, query: _Query, looked_at: Filter, fused: Sequence[Fused]
    ) -> list[tuple[Fused, float]]:
        """The candidates with what being new adds, best first."""
        if not fused or not self._half_life or SourceKind.ARTICLE not in query.scope.kinds:
            return [(one, 0.0) for one in fused]
        rows = await binary_rows.fetch(
            connection, _DATES.format(visible=looked_at.sql), {**looked_at.values, "ids": [one.id for one in fused]}
        )
        now = self._clock.now()
        ages = {chunk_id: max(0.0, (now - published).total_seconds()) for chunk_id, published in rows if published is not None}
        placed = [(one, _RECENCY_WEIGHT * 2 ** (-ages[one.id] / self._half_life) if one.id in ages else 0.0) for one in fused]
        return sorted(placed, key=lambda entry: (-(entry[0].score + entry[1]), entry[0].id))


def _scores(query: _Query, read: _Read) -> Scored | None:
    if read.blocks is None:
        return None
    population = read.blocks.population() if read.scanned is None else read.scanned.population
    return scored(population, read.where.totals, read.blocks.weighted(query.terms))


async def _seen(connection: AsyncConnection, looked_at: Filter, ids: Sequence[int]) -> set[int]:
    rows = await binary_rows.fetch(connection, _SEEN.format(visible=looked_at.sql), {**looked_at.values, "ids": list(ids)})
    return {chunk_id for (chunk_id,) in rows}


async def _best_visible(connection: AsyncConnection, looked_at: Filter, scores: Scored, depth: int) -> list[tuple[int, float]]:
    """Down from the best, until enough are visible."""
    visible: list[tuple[int, float]] = []
    looked_up, until = 0, max(_LOOKED_UP, 2 * depth)
    while len(visible) < depth:
        places = (await asyncio.to_thread(scores.best_places, until))[looked_up:]
        if not len(places):
            break
        for start in range(0, len(places), _MOST_LOOKED_UP):
            best = scores.at(places[start : start + _MOST_LOOKED_UP])
            seen = await _seen(connection, looked_at, [chunk_id for chunk_id, _ in best])
            visible += [one for one in best if one[0] in seen]
            if len(visible) >= depth:
                break
        looked_up, until = until, until * _MORE
    return visible[:depth]


async def _first_visible(
    connection: AsyncConnection, query: _Query, looked_at: Filter, ids: Sequence[int]
) -> dict[int, Sequence[Any]]:
    """The rows of the first `top_k` that (still) are visible, by id."""
    vector = "CAST(c.embedding AS real[])" if query.with_vectors and query.inside else "NULL"
    statement = _ROWS.format(vector=vector, visible=looked_at.sql)
    found: dict[int, Sequence[Any]] = {}
    position = 0
    while position < len(ids) and len(found) < query.top_k:
        part = list(ids[position : position + query.top_k - len(found)])
        position += len(part)
        rows = await binary_rows.fetch(connection, statement, {**looked_at.values, "ids": part})
        found |= {row[0]: row for row in rows}
    return found


def _passage(row: Sequence[Any], fused: Fused, recency: float, legs: _Legs, vectors: Mapping[int, Vectors]) -> FoundPassage:
    _, document_id, version, kind, title, url, page, start, end, content, published, own = row
    bm25 = legs.words[fused.lexical_rank - 1][1] if fused.lexical_rank else 0.0
    in_titles = legs.scores.title_score(fused.id) if legs.scores is not None and fused.lexical_rank else 0.0
    return FoundPassage(
        id=fused.id,
        document_id=document_id,
        version=version,
        kind=SourceKind(kind),
        title=title,
        url=url,
        page=page,
        start=start,
        end=end,
        text=content,
        published_at=published,
        score=fused.score + recency,
        dense_score=legs.near[fused.dense_rank - 1][1] if fused.dense_rank else 0.0,
        lexical_score=bm25,
        dense_rank=fused.dense_rank,
        lexical_rank=fused.lexical_rank,
        field_scores={"title": in_titles, "body": bm25 - in_titles} if fused.lexical_rank else {},
        fused_score=fused.score,
        recency_score=recency,
        vector=np.asarray(own, dtype=np.float32) if own is not None else vectors.get(fused.id),
    )
