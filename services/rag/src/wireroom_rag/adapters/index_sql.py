"""Writing the index: chunks with their vectors, postings, statistics; each batch in one transaction."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from wireroom_common.db import Database
from wireroom_common.outbox import emit
from wireroom_protos.events.v1 import events_pb2
from wireroom_rag.domain.document import Chunk, Job
from wireroom_rag.domain.passage import IndexEntry, Vectors

# Chunks of one statement: a long document must meet neither the statement's time limit nor hold up the event loop.
_SLICE = 200

# Job, chunk, its vector [384], its term counts.
_Row = tuple[Job, Chunk, Vectors, Counter[str]]


class IndexWriter:
    """Puts versions into the index."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def write(self, tenant_id: UUID, entries: Sequence[IndexEntry]) -> int:
        """Serve these versions from now on, and not the ones before; how many were written.

        A version whose lease is lost is left alone. One that is older than what is served is marked as superseded.
        """
        async with self._database.tenant(tenant_id) as connection:
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
                await remove_chunks(connection, tenant_id, [entry.job.key.document_id for entry in newer])
                await _insert(connection, tenant_id, newer)
                await _finish(connection, tenant_id, newer)
            return len(newer)


async def remove_chunks(connection: AsyncConnection, tenant_id: UUID, document_ids: Sequence[UUID]) -> None:
    """Take documents out of the index and out of the statistics; the caller holds their rows' locks."""
    removed = (
        await connection.execute(
            text(
                "WITH gone AS (DELETE FROM chunks WHERE tenant_id = :tenant_id AND document_id = ANY(CAST(:ids AS uuid[])) RETURNING terms)"
                " SELECT count(*) AS chunks, COALESCE(sum(terms), 0) AS terms FROM gone"
            ),
            {"tenant_id": tenant_id, "ids": list(document_ids)},
        )
    ).one()
    if removed.chunks:
        await _count(connection, tenant_id, -removed.chunks, -removed.terms)


async def _lock(connection: AsyncConnection, tenant_id: UUID, document_ids: Sequence[UUID]) -> dict[UUID, int | None]:
    rows = await connection.execute(
        text(
            "SELECT id, indexed_version FROM documents WHERE tenant_id = :tenant_id AND id = ANY(CAST(:ids AS uuid[]))"
            " ORDER BY id FOR UPDATE"
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


async def _insert(connection: AsyncConnection, tenant_id: UUID, entries: Sequence[IndexEntry]) -> None:
    rows = [
        (entry.job, chunk, vector, terms)
        for entry in entries
        for chunk, vector, terms in zip(entry.chunks, entry.vectors, entry.terms, strict=True)
    ]
    for first in range(0, len(rows), _SLICE):
        await _insert_slice(connection, tenant_id, rows[first : first + _SLICE])
    await _count(connection, tenant_id, len(rows), sum(terms.total() for _, _, _, terms in rows))


async def _insert_slice(connection: AsyncConnection, tenant_id: UUID, rows: Sequence[_Row]) -> None:
    inserted = await connection.execute(
        text(
            """
            INSERT INTO chunks (tenant_id, document_id, version, kind, published_at, page, start_at, end_at, content, terms, embedding)
            SELECT :tenant_id, document_id, version, kind, published_at, page, start_at, end_at, content, terms, CAST(vector AS halfvec)
              FROM unnest(CAST(:document_ids AS uuid[]), CAST(:versions AS integer[]), CAST(:kinds AS text[]),
                          CAST(:published AS timestamptz[]), CAST(:pages AS integer[]), CAST(:starts AS integer[]),
                          CAST(:ends AS integer[]), CAST(:contents AS text[]), CAST(:terms AS integer[]), CAST(:vectors AS text[]))
                AS new (document_id, version, kind, published_at, page, start_at, end_at, content, terms, vector)
            RETURNING id, document_id, start_at
            """
        ),
        {
            "tenant_id": tenant_id,
            "document_ids": [job.key.document_id for job, _, _, _ in rows],
            "versions": [job.key.version for job, _, _, _ in rows],
            "kinds": [job.kind.value for job, _, _, _ in rows],
            "published": [job.published_at for job, _, _, _ in rows],
            "pages": [chunk.page for _, chunk, _, _ in rows],
            "starts": [chunk.start for _, chunk, _, _ in rows],
            "ends": [chunk.end for _, chunk, _, _ in rows],
            "contents": [chunk.text for _, chunk, _, _ in rows],
            "terms": [terms.total() for _, _, _, terms in rows],
            "vectors": [f"[{','.join(f'{value:.5g}' for value in vector.tolist())}]" for _, _, vector, _ in rows],
        },
    )
    ids = {(row.document_id, row.start_at): row.id for row in inserted}
    postings = [
        (stem, ids[job.key.document_id, chunk.start], count, terms.total())
        for job, chunk, _, terms in rows
        for stem, count in terms.items()
    ]
    await connection.execute(
        text(
            "INSERT INTO postings (tenant_id, stem, chunk_id, tf, terms)"
            " SELECT :tenant_id, stem, chunk_id, tf, terms FROM unnest(CAST(:stems AS text[]), CAST(:chunk_ids AS bigint[]),"
            " CAST(:counts AS integer[]), CAST(:lengths AS integer[])) AS new (stem, chunk_id, tf, terms)"
        ),
        {
            "tenant_id": tenant_id,
            "stems": [stem for stem, _, _, _ in postings],
            "chunk_ids": [chunk_id for _, chunk_id, _, _ in postings],
            "counts": [count for _, _, count, _ in postings],
            "lengths": [length for _, _, _, length in postings],
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


async def _count(connection: AsyncConnection, tenant_id: UUID, chunks: int, terms: int) -> None:
    # Two statements: the CHECK of an upsert would look at the (negative) difference instead of the sum.
    await connection.execute(
        text("INSERT INTO index_statistics (tenant_id, chunks, terms) VALUES (:tenant_id, 0, 0) ON CONFLICT DO NOTHING"),
        {"tenant_id": tenant_id},
    )
    await connection.execute(
        text("UPDATE index_statistics SET chunks = chunks + :chunks, terms = terms + :terms WHERE tenant_id = :tenant_id"),
        {"tenant_id": tenant_id, "chunks": chunks, "terms": terms},
    )
