"""Writing the index: chunks with their vectors, postings, statistics; each batch in one transaction."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from wireroom_common.db import Database
from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_common.outbox import emit
from wireroom_protos.events.v1 import events_pb2
from wireroom_rag.adapters.connections import worker
from wireroom_rag.adapters.generations_sql import lock_live
from wireroom_rag.domain.document import Chunk
from wireroom_rag.domain.generation import Generation, GenerationState
from wireroom_rag.domain.passage import BuiltText, IndexEntry, Vectors
from wireroom_rag.domain.scope import SourceKind

# Chunks of one statement: a long document must meet neither the statement's time limit nor hold up the event loop.
_SLICE = 200


@dataclass(frozen=True)
class _Row:
    document_id: UUID
    version: int
    kind: SourceKind
    published_at: datetime | None
    chunk: Chunk
    vector: Vectors
    terms: Counter[str]
    title_terms: Counter[str]


class IndexWriter:
    """Puts versions into the index."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def write(self, tenant_id: UUID, entries: Sequence[IndexEntry]) -> int:
        """Serve these versions from now on, and not the ones before; how many were written.

        A version whose lease is lost is left alone. One that is older than what is served is marked as superseded. UNAVAILABLE when
        another generation serves by now than those that there are vectors for; one that is being built may be left out.
        """
        async with worker(self._database, tenant_id) as connection:
            served = await _lock(connection, tenant_id, [entry.job.key.document_id for entry in entries])
            held = await _held(connection, tenant_id, entries)
            live = [
                entry
                for entry in entries
                if (entry.job.key.document_id, entry.job.key.version) in held and entry.job.key.document_id in served
            ]
            newer = [entry for entry in live if entry.job.key.version > (served[entry.job.key.document_id] or 0)]
            await _store_texts(connection, tenant_id, live)
            for entry in live:
                if entry not in newer:
                    await _supersede(connection, entry)
            if newer:
                generations = await lock_live(connection, tenant_id)
                _require_serving(generations, newer)
                await remove_chunks(connection, tenant_id, [entry.job.key.document_id for entry in newer])
                for generation in generations.values():
                    await _insert(connection, tenant_id, generation, _rows(newer, generation))
                await _finish(connection, tenant_id, newer)
            return len(newer)

    async def add(self, tenant_id: UUID, generation: Generation, built: BuiltText) -> None:
        """Put a served version into a generation that is being built; nothing happens when either is no longer so, or it is there."""
        async with worker(self._database, tenant_id) as connection:
            served = await _lock(connection, tenant_id, [built.document_id])
            live = await lock_live(connection, tenant_id)
            if served.get(built.document_id) != built.version or generation.number not in live:
                return
            values = {"tenant_id": tenant_id, "id": built.document_id, "version": built.version, "number": generation.number}
            facts = (
                await connection.execute(
                    text(
                        """
                        SELECT kind, published_at FROM document_versions v
                         WHERE tenant_id = :tenant_id AND document_id = :id AND version = :version
                           AND NOT EXISTS (SELECT 1 FROM chunks c WHERE c.tenant_id = v.tenant_id AND c.document_id = v.document_id
                                              AND c.version = v.version AND c.generation = :number)
                        """
                    ),
                    values,
                )
            ).one_or_none()
            if facts is None:
                return
            rows = [
                _Row(
                    document_id=built.document_id,
                    version=built.version,
                    kind=SourceKind(facts.kind),
                    published_at=facts.published_at,
                    chunk=chunk,
                    vector=vector,
                    terms=terms,
                    title_terms=title_terms,
                )
                for chunk, vector, terms, title_terms in zip(
                    built.chunks, built.vectors, built.terms, built.title_terms, strict=True
                )
            ]
            await _insert(connection, tenant_id, generation, rows)


async def remove_chunks(connection: AsyncConnection, tenant_id: UUID, document_ids: Sequence[UUID]) -> None:
    """Take documents out of the index and out of the statistics; the caller holds their rows' locks."""
    removed = await connection.execute(
        text(
            "WITH gone AS (DELETE FROM chunks WHERE tenant_id = :tenant_id AND document_id = ANY(CAST(:ids AS uuid[]))"
            " RETURNING generation, terms, title_terms)"
            " SELECT generation, count(*) AS chunks, sum(terms) AS terms, sum(title_terms) AS title_terms"
            " FROM gone GROUP BY generation ORDER BY generation"
        ),
        {"tenant_id": tenant_id, "ids": list(document_ids)},
    )
    for row in removed.all():
        await _count(connection, tenant_id, row.generation, chunks=-row.chunks, terms=-row.terms, title_terms=-row.title_terms)


async def _lock(connection: AsyncConnection, tenant_id: UUID, document_ids: Sequence[UUID]) -> dict[UUID, int | None]:
    rows = await connection.execute(
        text(
            "SELECT id, indexed_version FROM documents WHERE tenant_id = :tenant_id AND id = ANY(CAST(:ids AS uuid[]))"
            " AND deleted_at IS NULL ORDER BY id FOR UPDATE"
        ),
        {"tenant_id": tenant_id, "ids": list(document_ids)},
    )
    return {row.id: row.indexed_version for row in rows}


async def _held(connection: AsyncConnection, tenant_id: UUID, entries: Sequence[IndexEntry]) -> set[tuple[UUID, int]]:
    rows = await connection.execute(
        text(
            "SELECT v.document_id, v.version FROM document_versions v"
            " JOIN unnest(CAST(:ids AS uuid[]), CAST(:versions AS integer[]), CAST(:tokens AS uuid[])) AS own (id, version, token)"
            " ON v.document_id = own.id AND v.version = own.version AND v.lease_token = own.token"
            " WHERE v.tenant_id = :tenant_id FOR UPDATE OF v"
        ),
        {
            "tenant_id": tenant_id,
            "ids": [entry.job.key.document_id for entry in entries],
            "versions": [entry.job.key.version for entry in entries],
            "tokens": [entry.job.lease_token for entry in entries],
        },
    )
    return {(row.document_id, row.version) for row in rows}


async def _store_texts(connection: AsyncConnection, tenant_id: UUID, entries: Sequence[IndexEntry]) -> None:
    fresh = [
        {
            "tenant_id": tenant_id,
            "id": entry.job.key.document_id,
            "version": entry.job.key.version,
            "content": entry.found.content,
            "starts": list(entry.found.page_starts),
            "title": entry.title,
            "url": entry.url,
            "chunks": len(entry.chunks),
        }
        for entry in entries
        if entry.found is not None
    ]
    if fresh:
        await connection.execute(
            text(
                "UPDATE document_versions SET content = :content, page_starts = CAST(:starts AS integer[]), chunks = :chunks,"
                " title = COALESCE(CAST(:title AS text), title), url = COALESCE(CAST(:url AS text), url)"
                " WHERE tenant_id = :tenant_id AND document_id = :id AND version = :version"
            ),
            fresh,
        )


async def _supersede(connection: AsyncConnection, entry: IndexEntry) -> None:
    key = entry.job.key
    await connection.execute(
        text(
            "UPDATE document_versions SET state = 'rejected', reason_code = 'document_superseded',"
            " reason = 'A newer version was indexed first.', lease_token = NULL, leased_until = NULL, updated_at = now()"
            " WHERE tenant_id = :tenant_id AND document_id = :id AND version = :version"
        ),
        {"tenant_id": key.tenant_id, "id": key.document_id, "version": key.version},
    )
    await emit(
        connection,
        events_pb2.RagDocumentRejected(document_id=str(key.document_id), version=key.version, reason_code="document_superseded"),
        tenant_id=key.tenant_id,
        subject=str(key.document_id),
    )


def _require_serving(generations: dict[int, Generation], entries: Sequence[IndexEntry]) -> None:
    serving = next((number for number, found in generations.items() if found.state is GenerationState.SERVING), None)
    if serving is None or any(serving not in entry.vectors for entry in entries):
        raise WireroomError(
            ErrorKind.UNAVAILABLE,
            "generation_switched",
            "The index was switched meanwhile; the text is embedded again.",
            retry_after=1,
        )


def _rows(entries: Sequence[IndexEntry], generation: Generation) -> list[_Row]:
    return [
        _Row(
            document_id=entry.job.key.document_id,
            version=entry.job.key.version,
            kind=entry.job.kind,
            published_at=entry.job.published_at,
            chunk=chunk,
            vector=vector,
            terms=terms,
            title_terms=title_terms,
        )
        for entry in entries
        if generation.number in entry.vectors
        for chunk, vector, terms, title_terms in zip(
            entry.chunks, entry.vectors[generation.number], entry.terms, entry.title_terms, strict=True
        )
    ]


async def _insert(connection: AsyncConnection, tenant_id: UUID, generation: Generation, rows: Sequence[_Row]) -> None:
    for first in range(0, len(rows), _SLICE):
        await _insert_slice(connection, tenant_id, generation, rows[first : first + _SLICE])
    if rows:
        body, title = sum(row.terms.total() for row in rows), sum(row.title_terms.total() for row in rows)
        await _count(connection, tenant_id, generation.number, chunks=len(rows), terms=body, title_terms=title)


async def _insert_slice(connection: AsyncConnection, tenant_id: UUID, generation: Generation, rows: Sequence[_Row]) -> None:
    inserted = await connection.execute(
        text(
            """
            INSERT INTO chunks (tenant_id, document_id, version, kind, published_at, page, start_at, end_at, content, terms, embedding,
                                title_terms, generation, dimension)
            SELECT :tenant_id, document_id, version, kind, published_at, page, start_at, end_at, content, terms, CAST(vector AS halfvec),
                   title_terms, :generation, :dimension
              FROM unnest(CAST(:document_ids AS uuid[]), CAST(:versions AS integer[]), CAST(:kinds AS text[]),
                          CAST(:published AS timestamptz[]), CAST(:pages AS integer[]), CAST(:starts AS integer[]),
                          CAST(:ends AS integer[]), CAST(:contents AS text[]), CAST(:terms AS integer[]), CAST(:vectors AS text[]),
                          CAST(:title_terms AS integer[]))
                AS new (document_id, version, kind, published_at, page, start_at, end_at, content, terms, vector, title_terms)
            RETURNING id, document_id, start_at
            """
        ),
        {
            "tenant_id": tenant_id,
            "generation": generation.number,
            "dimension": generation.blueprint.dimension,
            "document_ids": [row.document_id for row in rows],
            "versions": [row.version for row in rows],
            "kinds": [row.kind.value for row in rows],
            "published": [row.published_at for row in rows],
            "pages": [row.chunk.page for row in rows],
            "starts": [row.chunk.start for row in rows],
            "ends": [row.chunk.end for row in rows],
            "contents": [row.chunk.text for row in rows],
            "terms": [row.terms.total() for row in rows],
            "title_terms": [row.title_terms.total() for row in rows],
            "vectors": [f"[{','.join(f'{value:.5g}' for value in row.vector.tolist())}]" for row in rows],
        },
    )
    ids = {(row.document_id, row.start_at): row.id for row in inserted}
    postings = [
        (
            stem,
            ids[row.document_id, row.chunk.start],
            row.terms[stem],
            row.terms.total(),
            row.title_terms[stem],
            row.title_terms.total(),
        )
        for row in rows
        for stem in row.terms.keys() | row.title_terms.keys()
    ]
    await connection.execute(
        text(
            "INSERT INTO postings (tenant_id, generation, stem, chunk_id, tf, terms, title_tf, title_terms)"
            " SELECT :tenant_id, :generation, stem, chunk_id, tf, terms, title_tf, title_terms"
            " FROM unnest(CAST(:stems AS text[]), CAST(:chunk_ids AS bigint[]), CAST(:counts AS integer[]), CAST(:lengths AS integer[]),"
            " CAST(:title_counts AS integer[]), CAST(:title_lengths AS integer[]))"
            " AS new (stem, chunk_id, tf, terms, title_tf, title_terms)"
        ),
        {
            "tenant_id": tenant_id,
            "generation": generation.number,
            "stems": [posting[0] for posting in postings],
            "chunk_ids": [posting[1] for posting in postings],
            "counts": [posting[2] for posting in postings],
            "lengths": [posting[3] for posting in postings],
            "title_counts": [posting[4] for posting in postings],
            "title_lengths": [posting[5] for posting in postings],
        },
    )


async def _finish(connection: AsyncConnection, tenant_id: UUID, entries: Sequence[IndexEntry]) -> None:
    finished = await connection.execute(
        text(
            """
            WITH done AS (
                UPDATE document_versions v
                   SET state = 'indexed', chunks = new.chunks, lease_token = NULL, leased_until = NULL, updated_at = now()
                  FROM unnest(CAST(:ids AS uuid[]), CAST(:versions AS integer[]), CAST(:counts AS integer[])) AS new (id, version, chunks)
                 WHERE v.tenant_id = :tenant_id AND v.document_id = new.id AND v.version = new.version
                RETURNING v.document_id, v.version, v.pages, v.chunks, v.kind,
                          CAST(extract(epoch FROM clock_timestamp() - v.created_at) * 1000 AS bigint) AS milliseconds
            ), served AS (
                UPDATE documents d SET indexed_version = done.version FROM done WHERE d.tenant_id = :tenant_id AND d.id = done.document_id
            )
            SELECT * FROM done
            """
        ),
        {
            "tenant_id": tenant_id,
            "ids": [entry.job.key.document_id for entry in entries],
            "versions": [entry.job.key.version for entry in entries],
            "counts": [len(entry.chunks) for entry in entries],
        },
    )
    for row in finished.all():
        event = events_pb2.RagDocumentIndexed(
            document_id=str(row.document_id),
            version=row.version,
            pages=row.pages,
            chunks=row.chunks,
            milliseconds=max(0, row.milliseconds),
            kind=row.kind,
        )
        await emit(connection, event, tenant_id=tenant_id, subject=str(row.document_id))


async def _count(
    connection: AsyncConnection, tenant_id: UUID, generation: int, *, chunks: int, terms: int, title_terms: int
) -> None:
    values = {"tenant_id": tenant_id, "generation": generation, "chunks": chunks, "terms": terms, "title_terms": title_terms}
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
