"""Reading the index: dense and lexical leg, fused, in one statement."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import numpy as np
from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from wireroom_common.clock import Clock, SystemClock
from wireroom_common.db import Database
from wireroom_rag.adapters.connections import scoped
from wireroom_rag.domain.collection import Members
from wireroom_rag.domain.generation import Generation, GenerationChangedError
from wireroom_rag.domain.lexicon import K1, TITLE_B, TITLE_WEIGHT, B
from wireroom_rag.domain.passage import FoundPassage, Vectors, Widened
from wireroom_rag.domain.scope import Scope, SourceKind

# Below this many chunks a scan is as fast as the graph, and exact; above it the graph is walked until the filter is satisfied.
EXACT_UP_TO = 20_000
# What migrations made graphs for; vectors of other dimensions are always scanned.
GRAPH_DIMENSIONS = frozenset({384, 512, 768, 1024, 1536})
# Candidates of each leg, and the constant of reciprocal rank fusion (Cormack, Clarke, Buettcher 2009).
_DEPTH = 100
_RRF_K = 60
# Today's news gains half of what the first place of a leg is worth.
_RECENCY_WEIGHT = 0.5 / (_RRF_K + 1)

# Plans that were made for other values read whole tables, and compiling takes longer than running.
_PLANNING = "set_config('plan_cache_mode', 'force_custom_plan', true), set_config('jit', 'off', true)"
# Little memory: with more of it, the planner would read all documents into a table to look up the few that the walk comes across.
_WALKING = (
    "set_config('hnsw.iterative_scan', 'strict_order', true), set_config('hnsw.ef_search', '400', true),"
    " set_config('hnsw.max_scan_tuples', '100000', true), set_config('work_mem', '64kB', true)"
)
_WALKED_ENOUGH = "set_config('work_mem', '16MB', true)"

# The calls of `EXACT` materialise distances only: with an ORDER BY inside, the planner might take the graph after all.
_EXACT = """
    scan AS MATERIALIZED (
        SELECT c.id, c.embedding <=> CAST(:vector AS halfvec) AS distance FROM chunks c WHERE {visible}
    )"""
# The literal dimension is what the graph's index goes by.
_WALK = """
SELECT c.id, CAST(c.embedding AS halfvec({dimension})) <=> CAST(:vector AS halfvec({dimension})) AS distance
  FROM chunks c WHERE c.dimension = {dimension} AND {visible}
 ORDER BY CAST(c.embedding AS halfvec({dimension})) <=> CAST(:vector AS halfvec({dimension})) LIMIT :depth
"""
_WALKED = """
    scan AS MATERIALIZED (
        SELECT * FROM unnest(CAST(:nearest AS bigint[]), CAST(:distances AS float8[])) AS walked (id, distance)
    )"""
_NO_SCAN = "scan AS MATERIALIZED (SELECT CAST(NULL AS bigint) AS id, CAST(NULL AS float8) AS distance WHERE false)"
_VISIBLE = """c.tenant_id = :tenant_id AND c.generation = :generation AND c.kind = ANY(CAST(:kinds AS text[]))
    AND (CAST(:since AS timestamptz) IS NULL OR c.published_at IS NULL OR c.published_at >= :since)"""
_MEMBER = """c.document_id IN (
        SELECT m.document_id FROM collection_documents m
         WHERE m.tenant_id = :tenant_id AND m.collection_id = ANY(CAST(:collections AS uuid[]))
           AND m.attributes @> CAST(:attributes AS jsonb)
           AND (CAST(:passing AS text) IS NULL OR m.attributes @@ CAST(CAST(:passing AS text) AS jsonpath)))"""
# At most so many members are looked at: each has one chunk at least.
_MEMBER_CHUNKS = """
SELECT COALESCE(sum(v.chunks), 0)
  FROM (SELECT DISTINCT m.document_id FROM collection_documents m
         WHERE m.tenant_id = :tenant_id AND m.collection_id = ANY(CAST(:collections AS uuid[]))
           AND m.attributes @> CAST(:attributes AS jsonb)
           AND (CAST(:passing AS text) IS NULL OR m.attributes @@ CAST(CAST(:passing AS text) AS jsonpath)) LIMIT :most) m
  JOIN documents d ON d.tenant_id = :tenant_id AND d.id = m.document_id
  JOIN document_versions v ON v.tenant_id = d.tenant_id AND v.document_id = d.id AND v.version = d.indexed_version
"""
# What follows in the transaction is planned for its own values.
_SERVING = f"""
SELECT g.number, s.chunks, {_PLANNING}
  FROM generations g
  LEFT JOIN index_statistics s ON s.tenant_id = g.tenant_id AND s.generation = g.number
 WHERE g.tenant_id = :tenant_id AND g.state = 'serving'
"""  # noqa: S608 - constants of this file
_HYBRID = """
WITH {scan},
dense AS (
    SELECT id, 1 - distance AS similarity, row_number() OVER (ORDER BY distance, id) AS rank
      FROM (SELECT id, distance FROM scan ORDER BY distance, id LIMIT :depth) nearest
),
totals AS (
    SELECT CAST(chunks AS float8) AS chunks, CAST(terms AS float8) / chunks AS mean_terms,
           CAST(title_terms AS float8) / chunks AS mean_title_terms
      FROM index_statistics WHERE tenant_id = :tenant_id AND generation = :generation AND chunks > 0
),
hits AS MATERIALIZED (
    SELECT p.chunk_id, p.stem, q.weight,
           COALESCE(p.tf / (1 - :b + :b * p.terms / NULLIF(t.mean_terms, 0)), 0) AS body,
           COALESCE(:title_weight * p.title_tf / (1 - :title_b + :title_b * p.title_terms / NULLIF(t.mean_title_terms, 0)), 0) AS title
      FROM unnest(CAST(:stems AS text[]), CAST(:weights AS integer[])) AS q (stem, weight)
      CROSS JOIN totals t
      JOIN postings p ON p.tenant_id = :tenant_id AND p.generation = :generation AND p.stem = q.stem
),
inverse AS (
    SELECT stem, ln(1 + (t.chunks - count(*) + 0.5) / (count(*) + 0.5)) AS idf FROM hits, totals t GROUP BY stem, t.chunks
),
bm25 AS (
    SELECT h.chunk_id AS id, sum(h.weight * i.idf * (h.body + h.title) * (:k1 + 1) / (h.body + h.title + :k1)) AS score,
           sum(h.weight * i.idf * h.title * (:k1 + 1) / (h.body + h.title + :k1)) AS title_score
      FROM hits h JOIN inverse i USING (stem) {only} GROUP BY h.chunk_id
),
lexical AS (
    SELECT id, score, title_score, row_number() OVER (ORDER BY score DESC, id) AS rank
      FROM ({best} ORDER BY m.score DESC, m.id LIMIT :depth) best
),
fused AS (
    SELECT id, d.similarity, d.rank AS dense_rank, l.score AS bm25, l.title_score, l.rank AS lexical_rank,
           COALESCE(1.0 / (:rrf_k + d.rank), 0) + COALESCE(1.0 / (:rrf_k + l.rank), 0) AS score
      FROM dense d FULL JOIN lexical l USING (id)
),
recent AS (
    {recent}
),
placed AS (
    SELECT * FROM recent ORDER BY score + recency DESC, id LIMIT :top_k
)
SELECT c.id, c.document_id, c.version, c.kind, v.title, v.url, c.page, c.start_at, c.end_at, c.content, c.published_at,
       f.score, f.recency, COALESCE(f.similarity, 0) AS similarity, COALESCE(f.dense_rank, 0) AS dense_rank,
       COALESCE(f.bm25, 0) AS bm25, COALESCE(f.title_score, 0) AS title_score, COALESCE(f.lexical_rank, 0) AS lexical_rank,
       {vector} AS vector
  FROM placed f
  JOIN chunks c ON c.tenant_id = :tenant_id AND c.id = f.id
  JOIN document_versions v ON v.tenant_id = c.tenant_id AND v.document_id = c.document_id AND v.version = c.version
 ORDER BY f.score + f.recency DESC, c.id
"""
# Of what a scan has looked at, the lexical leg need not look again; else it goes down from the best until enough are visible.
_SCANNED = "JOIN scan s ON s.id = h.chunk_id"
_BEST_SCANNED = "SELECT m.* FROM bm25 m"
_BEST_VISIBLE = """SELECT m.* FROM (SELECT * FROM bm25 ORDER BY score DESC, id OFFSET 0) m
      JOIN LATERAL (SELECT 1 FROM chunks c WHERE c.tenant_id = :tenant_id AND c.id = m.id AND {visible} OFFSET 0) seen ON true"""
_UNDATED = "SELECT f.*, CAST(0 AS float8) AS recency FROM fused f"
# One look-up for each of at most two hundred: as a join, the planner might read the whole table.
_DATED = """
    SELECT f.*, age.recency FROM fused f
     CROSS JOIN LATERAL (
        SELECT CASE WHEN c.kind = 'article' AND c.published_at IS NOT NULL
                    THEN :recency_weight
                         * power(2, -GREATEST(0, extract(epoch FROM CAST(:now AS timestamptz) - c.published_at)) / :half_life)
                    ELSE 0 END AS recency
          FROM chunks c WHERE c.tenant_id = :tenant_id AND c.id = f.id OFFSET 0) age"""
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


class IndexReader:
    """Implements `PassageIndex`; row-level security holds the tenant even if a query did not."""

    def __init__(
        self, database: Database, *, exact_up_to: int = EXACT_UP_TO, news_half_life_days: float = 0.0, clock: Clock | None = None
    ) -> None:
        self._database = database
        self._exact_up_to = exact_up_to
        self._half_life = news_half_life_days * 86_400
        self._clock = clock or SystemClock()

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

        GenerationChangedError unless `generation`, whose model made `vector`, is the one that serves.
        `vector=None` leaves out the dense leg, empty `terms` the lexical one. `since` drops older texts, not undated ones. `members`
        limits the documents; articles are left alone (the scope says whether there are any). `with_vectors`: the passages' own.
        """
        chosen = {} if members is None else _chosen(members)
        visible = _VISIBLE
        if members is not None:
            # Without the alternative the planner can begin with the members.
            visible += f" AND (c.kind = 'article' OR {_MEMBER})" if SourceKind.ARTICLE in scope.kinds else f" AND {_MEMBER}"
        dimension = generation.blueprint.dimension
        async with scoped(self._database, scope) as connection:
            size = await self._searched(connection, scope, generation, chosen)
            if not size:
                return []
            exact = size <= self._exact_up_to or dimension not in GRAPH_DIMENSIONS
            values: dict[str, Any] = {
                "tenant_id": scope.tenant_id,
                "generation": generation.number,
                "kinds": sorted(scope.kinds),
                "since": since,
                "depth": max(_DEPTH, top_k),
                **chosen,
            }
            if vector is not None:
                values["vector"] = f"[{','.join(f'{value:.6g}' for value in vector.tolist())}]"
            if vector is not None and not exact:
                values |= await self._walk(connection, _WALK.format(visible=visible, dimension=dimension), values)
            scan = _NO_SCAN if vector is None else _EXACT.format(visible=visible) if exact else _WALKED
            scanned = vector is not None and exact
            dated = self._half_life > 0 and SourceKind.ARTICLE in scope.kinds
            rows = await connection.execute(
                text(
                    _HYBRID.format(
                        scan=scan,
                        only=_SCANNED if scanned else "",
                        best=_BEST_SCANNED if scanned else _BEST_VISIBLE.format(visible=visible),
                        recent=_DATED if dated else _UNDATED,
                        vector="CAST(c.embedding AS real[])" if with_vectors else "NULL",
                    )
                ),
                {
                    **values,
                    "stems": list(terms),
                    "weights": list(terms.values()),
                    "k1": K1,
                    "b": B,
                    "title_weight": TITLE_WEIGHT,
                    "title_b": TITLE_B,
                    "rrf_k": _RRF_K,
                    "top_k": top_k,
                    **(
                        {"half_life": self._half_life, "recency_weight": _RECENCY_WEIGHT, "now": self._clock.now()}
                        if dated
                        else {}
                    ),
                },
            )
            return [_passage(row) for row in rows]

    async def widened(self, scope: Scope, ids: Sequence[int]) -> Mapping[int, Widened]:
        """Each passage with the ones before and behind it on its page; those that are gone are left out."""
        async with scoped(self._database, scope) as connection:
            rows = await connection.execute(
                text(_WIDENED), {"tenant_id": scope.tenant_id, "ids": list(ids), "kinds": sorted(scope.kinds)}
            )
            return {row.id: Widened(row.start_at, row.end_at, row.span) for row in rows}

    async def _walk(self, connection: AsyncConnection, query: str, values: Mapping[str, Any]) -> dict[str, Any]:
        """The nearest visible chunks by the graph."""
        await connection.execute(text(f"SELECT {_WALKING}"))
        nearest = (await connection.execute(text(query), values)).all()
        await connection.execute(text(f"SELECT {_WALKED_ENOUGH}"))
        return {"nearest": [row.id for row in nearest], "distances": [row.distance for row in nearest]}

    async def _searched(
        self, connection: AsyncConnection, scope: Scope, generation: Generation, chosen: Mapping[str, Any]
    ) -> int:
        """How many chunks a scan would read; what follows in the transaction is planned for its own values."""
        found = (await connection.execute(text(_SERVING), {"tenant_id": scope.tenant_id})).one_or_none()
        if found is None or found.number != generation.number:
            raise GenerationChangedError
        size: int = found.chunks or 0
        if not chosen or size <= self._exact_up_to or SourceKind.ARTICLE in scope.kinds:
            return size
        counted = await connection.execute(
            text(_MEMBER_CHUNKS), {"tenant_id": scope.tenant_id, **chosen, "most": self._exact_up_to + 1}
        )
        members: int = counted.scalar_one()
        return members


def _passage(row: Row[Any]) -> FoundPassage:
    score = float(row.score)
    return FoundPassage(
        id=row.id,
        document_id=row.document_id,
        version=row.version,
        kind=SourceKind(row.kind),
        title=row.title,
        url=row.url,
        page=row.page,
        start=row.start_at,
        end=row.end_at,
        text=row.content,
        published_at=row.published_at,
        score=score + float(row.recency),
        dense_score=float(row.similarity),
        lexical_score=float(row.bm25),
        dense_rank=row.dense_rank,
        lexical_rank=row.lexical_rank,
        field_scores={"title": float(row.title_score), "body": float(row.bm25) - float(row.title_score)}
        if row.lexical_rank
        else {},
        fused_score=score,
        recency_score=float(row.recency),
        vector=None if row.vector is None else np.asarray(row.vector, dtype=np.float32),
    )


def _chosen(members: Members) -> dict[str, Any]:
    return {
        "collections": list(members.collection_ids),
        "attributes": json.dumps(dict(members.attributes), ensure_ascii=False),
        "passing": members.passing or None,
    }
