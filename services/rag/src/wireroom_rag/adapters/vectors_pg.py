"""Vectors in the chunks' rows: as PostgreSQL writes them, and the nearest ones of a large scope."""

from __future__ import annotations

import numpy as np
import orjson
from sqlalchemy.ext.asyncio import AsyncConnection

from wireroom_rag.adapters import binary_rows
from wireroom_rag.adapters.search_scope_sql import Filter
from wireroom_rag.domain.passage import Vectors

# What migrations made graphs for; vectors of other dimensions are always scanned.
GRAPH_DIMENSIONS = frozenset({384, 512, 768, 1024, 1536})
_WALKING = (
    "set_config('hnsw.iterative_scan', 'strict_order', true), set_config('hnsw.ef_search', '400', true),"
    " set_config('hnsw.max_scan_tuples', '100000', true)"
)
# The literal dimension is what the graph's index goes by.
_WALK = """
SELECT c.id, CAST(c.embedding AS halfvec({dimension})) <=> CAST(%(vector)s AS halfvec({dimension})) AS distance
  FROM chunks c WHERE c.dimension = {dimension} AND {visible}
 ORDER BY CAST(c.embedding AS halfvec({dimension})) <=> CAST(%(vector)s AS halfvec({dimension})) LIMIT %(depth)s
"""
# Distances are materialised first: with an ORDER BY inside, the planner might look for a graph.
_LOOK_AT_ALL = """
WITH compared AS MATERIALIZED (SELECT c.id, c.embedding <=> CAST(%(vector)s AS halfvec) AS distance FROM chunks c WHERE {visible})
SELECT id, distance FROM compared ORDER BY distance, id LIMIT %(depth)s
"""


def literal(vector: Vectors) -> str:
    """The vector as PostgreSQL reads it, exact."""
    # As in JSON; ten times as fast as Python's own formatting.
    return orjson.dumps(np.ascontiguousarray(vector, dtype=np.float32), option=orjson.OPT_SERIALIZE_NUMPY).decode()


async def nearest(connection: AsyncConnection, looked_at: Filter, vector: Vectors, depth: int) -> list[tuple[int, float]]:
    """Chunk id and cosine similarity, best first: by the graph, which is walked until enough pass the filter, if there is one."""
    dimension = len(vector)
    graph = dimension in GRAPH_DIMENSIONS
    if graph:
        await binary_rows.fetch(connection, f"SELECT {_WALKING}", {})
    statement = _WALK.format(dimension=dimension, visible=looked_at.sql) if graph else _LOOK_AT_ALL.format(visible=looked_at.sql)
    rows = await binary_rows.fetch(connection, statement, {**looked_at.values, "vector": literal(vector), "depth": depth})
    # A vector of zeros is at no angle to anything.
    found = [(chunk_id, 1 - distance if distance == distance else 0.0) for chunk_id, distance in rows]  # noqa: PLR0124 - not a number
    return sorted(found, key=lambda one: (-one[1], one[0]))
