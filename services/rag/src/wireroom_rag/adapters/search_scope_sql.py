"""Which chunks a search may return: what is said of them in SQL, how many they are, and reading all of a small scope."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy.ext.asyncio import AsyncConnection

from wireroom_rag.adapters import binary_rows
from wireroom_rag.domain.bm25 import Population, Totals
from wireroom_rag.domain.collection import Members
from wireroom_rag.domain.generation import Generation, GenerationChangedError
from wireroom_rag.domain.scope import Scope, SourceKind

# Up to so many documents of collections are named to the statements one by one; more are looked up by their collections.
_MOST_NAMED = 20_000
_FEW = 2_000

# Plans that were made for other values read whole tables, and compiling takes longer than running. Little memory: with more of it, the
# planner would read all documents of the tenant into a table to look up the few that a statement comes across.
PLANNING = {"plan_cache_mode": "force_custom_plan", "jit": "off", "work_mem": "64kB"}
_SERVING = """
SELECT g.number, COALESCE(s.chunks, 0), COALESCE(s.terms, 0), COALESCE(s.title_terms, 0)
  FROM generations g
  LEFT JOIN index_statistics s ON s.tenant_id = g.tenant_id AND s.generation = g.number
 WHERE g.tenant_id = %(tenant_id)s AND g.state = 'serving'
"""
_MEMBERS = """SELECT m.document_id FROM collection_documents m
         WHERE m.tenant_id = %(tenant_id)s AND m.collection_id = ANY(%(collections)s)
           AND m.attributes @> CAST(%(attributes)s AS jsonb)
           AND (CAST(%(passing)s AS text) IS NULL OR m.attributes @@ CAST(CAST(%(passing)s AS text) AS jsonpath))"""
_MEMBER = f"c.document_id IN ({_MEMBERS})"
_NAMED = "c.document_id = ANY(CAST(%(documents)s AS uuid[]))"
# What the documents' own policy shows of the members; then the policy of chunks asks about these alone.
_RESOLVED = f"""
SELECT named.ids, named.documents, named.chunks, set_config('wireroom.documents', COALESCE(named.ids, ''), true),
       set_config('work_mem', '16MB', true)
  FROM (SELECT string_agg(CAST(d.id AS text), ',') AS ids, count(*) AS documents, CAST(COALESCE(sum(v.chunks), 0) AS bigint) AS chunks
          FROM (SELECT DISTINCT document_id FROM ({_MEMBERS}) members LIMIT %(most)s) m
          JOIN documents d ON d.tenant_id = %(tenant_id)s AND d.id = m.document_id AND d.kind = 'document'
          JOIN document_versions v ON v.tenant_id = d.tenant_id AND v.document_id = d.id AND v.version = d.indexed_version) named
"""  # noqa: S608 - constants of this file
_ROOMY = "SELECT set_config('work_mem', '16MB', true)"
_NOT_NARROWED = "SELECT set_config('wireroom.documents', '', true), set_config('work_mem', '64kB', true)"
_SCAN = """
SELECT array_send(array_agg(c.id)), array_send(array_agg(c.terms)), array_send(array_agg(c.title_terms)), {similarities}
  FROM chunks c WHERE {visible}
"""
_DISTANCES = "array_send(array_agg(c.embedding <=> CAST(%(vector)s AS halfvec)))"


@dataclass(frozen=True)
class Filter:
    """A condition on chunks `c`, and the values in it."""

    sql: str
    values: Mapping[str, Any]


@dataclass(frozen=True)
class SearchScope:
    """`small` if all of it may be read. `totals` are those of the whole generation."""

    totals: Totals
    filter: Filter
    small: bool


@dataclass(frozen=True)
class Scanned:
    """All chunks of a small scope; `similarities` only if a vector was given."""

    population: Population
    similarities: NDArray[np.float64] | None = field(default=None)

    def nearest(self, depth: int) -> list[tuple[int, float]]:
        """Chunk id and similarity, best first, ties by id."""
        if self.similarities is None:
            return []
        order = np.lexsort((self.population.ids, -self.similarities))[:depth]
        return [(int(self.population.ids[place]), float(self.similarities[place])) for place in order]


async def search_scope(
    connection: AsyncConnection,
    scope: Scope,
    generation: Generation,
    *,
    since: datetime | None,
    members: Members | None,
    small_up_to: int,
) -> SearchScope | None:
    """None if there is nothing in it. GenerationChangedError unless the generation is the one that serves.

    The transaction has the settings `PLANNING`; of a small scope it sees no other documents than those in it from here on.
    """
    found = await binary_rows.fetch(connection, _SERVING, {"tenant_id": scope.tenant_id})
    if not found or found[0][0] != generation.number:
        raise GenerationChangedError
    totals = Totals(*found[0][1:4])
    values: dict[str, Any] = {
        "tenant_id": scope.tenant_id,
        "generation": generation.number,
        "kinds": sorted(scope.kinds),
        "since": since,
    }
    sql = "c.tenant_id = %(tenant_id)s AND c.generation = %(generation)s AND c.kind = ANY(%(kinds)s)"
    if since is not None:
        sql += " AND (c.published_at IS NULL OR c.published_at >= %(since)s)"
    if not totals.chunks:
        return None
    if members is None:
        small = totals.chunks <= small_up_to
        if small and totals.chunks > _FEW:
            # All documents are asked about: here a table of them is the better plan.
            await binary_rows.fetch(connection, _ROOMY, {})
        return SearchScope(totals, Filter(sql, values), small)
    articles = SourceKind.ARTICLE in scope.kinds
    values |= _chosen(members)
    ids, documents, chunks, *_ = (await binary_rows.fetch(connection, _RESOLVED, {**values, "most": _MOST_NAMED + 1}))[0]
    if not documents and not articles:
        return None
    if documents > _MOST_NAMED:
        member = _MEMBER
    else:
        member = _NAMED
        values["documents"] = f"{{{ids or ''}}}"
    # Without the alternative the planner can begin with the members.
    sql += f" AND (c.kind = 'article' OR {member})" if articles else f" AND {member}"
    small = totals.chunks <= small_up_to or (not articles and documents <= _MOST_NAMED and chunks <= small_up_to)
    if articles or not small or documents > _MOST_NAMED:
        await binary_rows.fetch(connection, _NOT_NARROWED, {})
    return SearchScope(totals, Filter(sql, values), small)


async def scan(connection: AsyncConnection, looked_at: Filter, vector: str | None) -> Scanned:
    """Everything that passes the filter and the caller may read, compared with a vector (as PostgreSQL writes it) if there is one."""
    # No ORDER BY in it: the planner might take the graph after all.
    statement = _SCAN.format(similarities="NULL" if vector is None else _DISTANCES, visible=looked_at.sql)
    ids, terms, title_terms, distances = (await binary_rows.fetch(connection, statement, {**looked_at.values, "vector": vector}))[
        0
    ]
    numbers = binary_rows.sent(ids, ">i8").astype(np.int64)
    order = np.argsort(numbers)
    population = Population(
        numbers[order],
        binary_rows.sent(terms, ">i4")[order].astype(np.int32),
        binary_rows.sent(title_terms, ">i4")[order].astype(np.int32),
    )
    if vector is None:
        return Scanned(population)
    # A vector of zeros is at no angle to anything.
    return Scanned(population, np.nan_to_num(1 - binary_rows.sent(distances, ">f8")[order].astype(np.float64), nan=0.0))


def _chosen(members: Members) -> dict[str, Any]:
    return {
        "collections": list(members.collection_ids),
        "attributes": json.dumps(dict(members.attributes), ensure_ascii=False),
        "passing": members.passing or None,
    }
