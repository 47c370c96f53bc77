"""Reading the index: dense and lexical leg, fused, in one statement."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from wireroom_common.db import Database
from wireroom_rag.domain.collection import Members
from wireroom_rag.domain.lexicon import K1, B
from wireroom_rag.domain.passage import FoundPassage, Vectors
from wireroom_rag.domain.scope import Scope, SourceKind

# Below this many chunks a scan is as fast as the graph, and exact; above it the graph is walked until the filter is satisfied.
EXACT_UP_TO = 20_000
# Candidates of each leg, and the constant of reciprocal rank fusion (Cormack, Clarke, Buettcher 2009).
_DEPTH = 100
_RRF_K = 60

# The calls of `EXACT` materialise distances only: with an ORDER BY inside, the planner might take the graph after all.
_EXACT = """
    scan AS MATERIALIZED (
        SELECT c.id, c.embedding <=> CAST(:vector AS halfvec) AS distance FROM chunks c WHERE {visible}
    )"""
_GRAPH = """
    scan AS MATERIALIZED (
        SELECT c.id, c.embedding <=> CAST(:vector AS halfvec) AS distance FROM chunks c WHERE {visible}
         ORDER BY c.embedding <=> CAST(:vector AS halfvec) LIMIT :depth
    )"""
_NO_SCAN = "scan AS MATERIALIZED (SELECT CAST(NULL AS bigint) AS id, CAST(NULL AS float8) AS distance WHERE false)"
_VISIBLE = """c.tenant_id = :tenant_id AND c.kind = ANY(CAST(:kinds AS text[]))
    AND (CAST(:since AS timestamptz) IS NULL OR c.published_at IS NULL OR c.published_at >= :since)"""
_MEMBER = """c.document_id IN (
        SELECT m.document_id FROM collection_documents m
         WHERE m.tenant_id = :tenant_id AND m.collection_id = ANY(CAST(:collections AS uuid[]))
           AND m.attributes @> CAST(:attributes AS jsonb))"""
# At most so many members are looked at: each has one chunk at least.
_MEMBER_CHUNKS = """
SELECT COALESCE(sum(v.chunks), 0)
  FROM (SELECT DISTINCT m.document_id FROM collection_documents m
         WHERE m.tenant_id = :tenant_id AND m.collection_id = ANY(CAST(:collections AS uuid[]))
           AND m.attributes @> CAST(:attributes AS jsonb) LIMIT :most) m
  JOIN documents d ON d.tenant_id = :tenant_id AND d.id = m.document_id
  JOIN document_versions v ON v.tenant_id = d.tenant_id AND v.document_id = d.id AND v.version = d.indexed_version
"""
_HYBRID = """
WITH {scan},
dense AS (
    SELECT id, 1 - distance AS similarity, row_number() OVER (ORDER BY distance, id) AS rank
      FROM (SELECT id, distance FROM scan ORDER BY distance, id LIMIT :depth) nearest
),
totals AS (
    SELECT CAST(chunks AS float8) AS chunks, CAST(terms AS float8) / chunks AS mean_terms
      FROM index_statistics WHERE tenant_id = :tenant_id AND chunks > 0 AND terms > 0
),
hits AS MATERIALIZED (
    SELECT p.chunk_id, p.stem, p.tf, p.terms, q.weight
      FROM unnest(CAST(:stems AS text[]), CAST(:weights AS integer[])) AS q (stem, weight)
      JOIN postings p ON p.tenant_id = :tenant_id AND p.stem = q.stem
),
inverse AS (
    SELECT stem, ln(1 + (t.chunks - count(*) + 0.5) / (count(*) + 0.5)) AS idf FROM hits, totals t GROUP BY stem, t.chunks
),
bm25 AS (
    SELECT h.chunk_id AS id,
           sum(h.weight * i.idf * h.tf * (:k1 + 1) / (h.tf + :k1 * (1 - :b + :b * h.terms / t.mean_terms))) AS score
      FROM hits h JOIN inverse i USING (stem) CROSS JOIN totals t GROUP BY h.chunk_id
),
lexical AS (
    SELECT id, score, row_number() OVER (ORDER BY score DESC, id) AS rank
      FROM (SELECT m.id, m.score FROM bm25 m JOIN chunks c ON c.tenant_id = :tenant_id AND c.id = m.id WHERE {visible}
             ORDER BY m.score DESC, m.id LIMIT :depth) best
),
fused AS (
    SELECT id, d.similarity, l.score AS bm25, COALESCE(1.0 / (:rrf_k + d.rank), 0) + COALESCE(1.0 / (:rrf_k + l.rank), 0) AS score
      FROM dense d FULL JOIN lexical l USING (id) ORDER BY score DESC, id LIMIT :top_k
)
SELECT c.id, c.document_id, c.version, c.kind, v.title, v.url, c.page, c.start_at, c.end_at, c.content, c.published_at,
       f.score, COALESCE(f.similarity, 0) AS similarity, COALESCE(f.bm25, 0) AS bm25
  FROM fused f
  JOIN chunks c ON c.tenant_id = :tenant_id AND c.id = f.id
  JOIN document_versions v ON v.tenant_id = c.tenant_id AND v.document_id = c.document_id AND v.version = c.version
 ORDER BY f.score DESC, c.id
"""


class IndexReader:
    """Implements `PassageIndex`; row-level security holds the tenant even if a query did not."""

    def __init__(self, database: Database, *, exact_up_to: int = EXACT_UP_TO) -> None:
        self._database = database
        self._exact_up_to = exact_up_to

    async def search(
        self,
        scope: Scope,
        *,
        vector: Vectors | None,
        terms: Mapping[str, int],
        top_k: int,
        since: datetime | None,
        members: Members | None = None,
    ) -> Sequence[FoundPassage]:
        """The best `top_k` passages in the scope by reciprocal rank fusion; deterministic order.

        `vector=None` leaves out the dense leg, empty `terms` the lexical one. `since` drops older texts, not undated ones. `members`
        limits the documents; articles are left alone (the scope says whether there are any).
        """
        chosen = {} if members is None else _chosen(members)
        visible = _VISIBLE
        if members is not None:
            # Without the alternative the planner can begin with the members.
            visible += f" AND (c.kind = 'article' OR {_MEMBER})" if SourceKind.ARTICLE in scope.kinds else f" AND {_MEMBER}"
        async with self._database.tenant(scope.tenant_id) as connection:
            size = await self._searched(connection, scope, chosen)
            if not size:
                return []
            exact = size <= self._exact_up_to
            if vector is not None and not exact:
                await connection.execute(text("SET LOCAL hnsw.iterative_scan = strict_order"))
                await connection.execute(text("SET LOCAL hnsw.ef_search = 200"))
                await connection.execute(text("SET LOCAL hnsw.max_scan_tuples = 100000"))
            template = _NO_SCAN if vector is None else _EXACT if exact else _GRAPH
            scan = template.format(visible=visible)
            rows = await connection.execute(
                text(_HYBRID.format(scan=scan, visible=visible)),
                {
                    "tenant_id": scope.tenant_id,
                    "kinds": sorted(scope.kinds),
                    "since": since,
                    **chosen,
                    **({} if vector is None else {"vector": f"[{','.join(f'{value:.6g}' for value in vector.tolist())}]"}),
                    "stems": list(terms),
                    "weights": list(terms.values()),
                    "depth": max(_DEPTH, top_k),
                    "k1": K1,
                    "b": B,
                    "rrf_k": _RRF_K,
                    "top_k": top_k,
                },
            )
            return [
                FoundPassage(
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
                    score=float(row.score),
                    dense_score=float(row.similarity),
                    lexical_score=float(row.bm25),
                )
                for row in rows
            ]

    async def _searched(self, connection: AsyncConnection, scope: Scope, chosen: Mapping[str, Any]) -> int:
        """How many chunks a scan would read."""
        found = await connection.execute(
            text("SELECT chunks FROM index_statistics WHERE tenant_id = :tenant_id"), {"tenant_id": scope.tenant_id}
        )
        size: int = found.scalar_one_or_none() or 0
        if not chosen or size <= self._exact_up_to or SourceKind.ARTICLE in scope.kinds:
            return size
        counted = await connection.execute(
            text(_MEMBER_CHUNKS), {"tenant_id": scope.tenant_id, **chosen, "most": self._exact_up_to + 1}
        )
        members: int = counted.scalar_one()
        return members


def _chosen(members: Members) -> dict[str, Any]:
    return {
        "collections": list(members.collection_ids),
        "attributes": json.dumps(dict(members.attributes), ensure_ascii=False),
    }
