"""Rows of chunks and what hangs on them: statistics, postings, and which stems a document stands under.

Order of locks: documents, generations, rows of chunks, then for each generation by ascending number its statistics and behind them the
postings.
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import numpy as np
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from wireroom_rag.adapters import binary_rows, vectors_pg
from wireroom_rag.adapters.postings_sql import LENGTHS, put_in, take_out
from wireroom_rag.adapters.vector_removals_sql import NOTED
from wireroom_rag.domain.bm25 import Ids, Postings
from wireroom_rag.domain.document import Chunk
from wireroom_rag.domain.generation import POSTGRESQL, Generation
from wireroom_rag.domain.passage import Vectors
from wireroom_rag.domain.scope import SourceKind

# Chunks of one statement: a long document must meet neither the statement's time limit nor hold up the event loop.
_SLICE = 200
# Documents whose postings are removed together.
_REMOVED_AT_ONCE = 50

_INSERT = """
INSERT INTO chunks (tenant_id, id, document_id, version, kind, published_at, page, start_at, end_at, content, terms, embedding,
                    title_terms, generation, dimension)
OVERRIDING SYSTEM VALUE
SELECT %(tenant_id)s, id, document_id, version, kind, published_at, page, start_at, end_at, content, terms, CAST(vector AS halfvec),
       title_terms, %(generation)s, %(dimension)s
  FROM unnest(%(ids)s::bigint[], %(document_ids)s::uuid[], %(versions)s::integer[], %(kinds)s::text[], %(published)s::timestamptz[],
              %(pages)s::integer[], %(starts)s::integer[], %(ends)s::integer[], %(contents)s::text[], %(terms)s::integer[],
              %(vectors)s::text[], %(title_terms)s::integer[])
    AS new (id, document_id, version, kind, published_at, page, start_at, end_at, content, terms, vector, title_terms)
"""
# Stems are words: there is no line break in them.
_REMEMBER = """
INSERT INTO indexed_stems (tenant_id, document_id, generation, stems)
SELECT %(tenant_id)s, document_id, %(generation)s, string_to_array(stems, chr(10))
  FROM unnest(%(document_ids)s::uuid[], %(stems)s::text[]) AS new (document_id, stems)
"""
_REMOVE = f"""
WITH gone AS (
    DELETE FROM chunks WHERE tenant_id = :tenant_id AND document_id = ANY(CAST(:ids AS uuid[]))
    RETURNING id, generation, document_id, terms, title_terms
), {NOTED}
SELECT * FROM gone
"""  # noqa: S608 - constants of this package
_FORGET = """
DELETE FROM indexed_stems WHERE tenant_id = :tenant_id AND document_id = ANY(CAST(:ids AS uuid[]))
RETURNING document_id, generation, stems
"""


@dataclass(frozen=True)
class ChunkRow:
    """A chunk on its way into the table."""

    document_id: UUID
    version: int
    kind: SourceKind
    published_at: datetime | None
    chunk: Chunk
    vector: Vectors
    terms: Counter[str]
    title_terms: Counter[str]


@dataclass
class _Change:
    """What becomes of one generation's postings."""

    chunks: int = 0
    terms: int = 0
    title_terms: int = 0


@dataclass(frozen=True)
class Removed:
    """Chunks whose rows are deleted and whose postings are still there: their stems and ids by generation and document."""

    changes: Mapping[int, _Change]
    documents: Mapping[int, Sequence[tuple[Sequence[str], Ids]]]


@dataclass(frozen=True)
class Written:
    """Chunks of a generation whose rows are written and whose postings are not yet."""

    generation: int
    rows: Sequence[ChunkRow]
    ids: Sequence[int]


async def draw_ids(connection: AsyncConnection, count: int) -> list[int]:
    """Ids that no chunk had or will have, ascending."""
    drawn = await connection.execute(
        text("SELECT nextval('chunks_id_seq') AS id FROM generate_series(1, CAST(:count AS integer))"), {"count": count}
    )
    return sorted(drawn.scalars())


async def write_rows(
    connection: AsyncConnection, tenant_id: UUID, generation: Generation, rows: Sequence[ChunkRow], ids: Sequence[int]
) -> Written:
    """The rows of the chunks, with their vectors unless those are in another store."""
    for start in range(0, len(rows), _SLICE):
        part = rows[start : start + _SLICE]
        vectors = await asyncio.to_thread(_literals, part) if generation.store == POSTGRESQL else [None] * len(part)
        await binary_rows.execute(
            connection,
            _INSERT,
            {
                "tenant_id": tenant_id,
                "generation": generation.number,
                "dimension": generation.blueprint.dimension,
                "ids": list(ids[start : start + _SLICE]),
                "document_ids": [row.document_id for row in part],
                "versions": [row.version for row in part],
                "kinds": [row.kind.value for row in part],
                "published": [row.published_at for row in part],
                "pages": [row.chunk.page for row in part],
                "starts": [row.chunk.start for row in part],
                "ends": [row.chunk.end for row in part],
                "contents": [row.chunk.text for row in part],
                "terms": [row.terms.total() for row in part],
                "title_terms": [row.title_terms.total() for row in part],
                "vectors": vectors,
            },
        )
    stems: dict[UUID, set[str]] = defaultdict(set)
    for row in rows:
        stems[row.document_id].update(row.terms.keys(), row.title_terms.keys())
    await binary_rows.execute(
        connection,
        _REMEMBER,
        {
            "tenant_id": tenant_id,
            "generation": generation.number,
            "document_ids": list(stems),
            "stems": ["\n".join(sorted(own)) for own in stems.values()],
        },
    )
    return Written(generation.number, rows, ids)


async def delete_rows(connection: AsyncConnection, tenant_id: UUID, document_ids: Sequence[UUID]) -> Removed:
    """Delete the rows of documents' chunks, of all generations."""
    values = {"tenant_id": tenant_id, "ids": list(document_ids)}
    ids: dict[tuple[int, UUID], list[int]] = defaultdict(list)
    changes: dict[int, _Change] = defaultdict(_Change)
    for row in await connection.execute(text(_REMOVE), values):
        ids[row.generation, row.document_id].append(row.id)
        change = changes[row.generation]
        change.chunks -= 1
        change.terms -= row.terms
        change.title_terms -= row.title_terms
    documents: dict[int, list[tuple[Sequence[str], Ids]]] = defaultdict(list)
    for row in await connection.execute(text(_FORGET), values):
        own = np.array(sorted(ids[row.generation, row.document_id]), dtype=np.int64)
        documents[row.generation].append((row.stems, own))
    return Removed(changes, documents)


async def settle(connection: AsyncConnection, tenant_id: UUID, removed: Removed, written: Sequence[Written] = ()) -> None:
    """Bring statistics and postings to where the rows are."""
    changes = dict(removed.changes)
    new = {each.generation: each for each in written if each.rows}
    for number, each in new.items():
        before = changes.get(number, _Change())
        changes[number] = _Change(
            before.chunks + len(each.rows),
            before.terms + sum(row.terms.total() for row in each.rows),
            before.title_terms + sum(row.title_terms.total() for row in each.rows),
        )
    for number in sorted(changes.keys() | removed.documents.keys()):
        await _count(connection, tenant_id, number, changes.get(number, _Change()))
        documents = removed.documents.get(number, ())
        for start in range(0, len(documents), _REMOVED_AT_ONCE):
            await take_out(connection, tenant_id, number, documents[start : start + _REMOVED_AT_ONCE])
        if number in new:
            added = await asyncio.to_thread(_postings, new[number])
            await put_in(connection, tenant_id, number, added)


async def lock_statistics(connection: AsyncConnection, tenant_id: UUID, generation: int) -> None:
    """Nobody else changes the generation's postings until the transaction ends."""
    await connection.execute(
        text("SELECT 1 FROM index_statistics WHERE tenant_id = :tenant_id AND generation = :generation FOR UPDATE"),
        {"tenant_id": tenant_id, "generation": generation},
    )


def _literals(rows: Sequence[ChunkRow]) -> list[str]:
    return [vectors_pg.literal(row.vector) for row in rows]


def _postings(written: Written) -> dict[str, Postings]:
    found: dict[str, list[tuple[int, int, int]]] = defaultdict(list)
    for chunk_id, row in sorted(zip(written.ids, written.rows, strict=True), key=lambda pair: pair[0]):
        found[LENGTHS].append((chunk_id, row.terms.total(), row.title_terms.total()))
        for stem in row.terms.keys() | row.title_terms.keys():
            found[stem].append((chunk_id, row.terms[stem], row.title_terms[stem]))
    result: dict[str, Postings] = {}
    for stem, entries in found.items():
        columns = np.array(entries, dtype=np.int64)
        result[stem] = Postings(columns[:, 0], columns[:, 1], columns[:, 2])
    return result


async def _count(connection: AsyncConnection, tenant_id: UUID, generation: int, change: _Change) -> None:
    values = {
        "tenant_id": tenant_id,
        "generation": generation,
        "chunks": change.chunks,
        "terms": change.terms,
        "title_terms": change.title_terms,
    }
    # Two statements: the CHECK of an upsert would look at the (negative) difference instead of the sum.
    await connection.execute(
        text(
            "INSERT INTO index_statistics (tenant_id, generation, chunks, terms, title_terms)"
            " VALUES (:tenant_id, :generation, 0, 0, 0) ON CONFLICT DO NOTHING"
        ),
        values,
    )
    await connection.execute(
        text(
            "UPDATE index_statistics SET chunks = chunks + :chunks, terms = terms + :terms, title_terms = title_terms + :title_terms"
            " WHERE tenant_id = :tenant_id AND generation = :generation"
        ),
        values,
    )
