"""Writing the index: chunks with their vectors, postings, statistics; each batch in one transaction."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import numpy as np
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from wireroom_common.db import Database
from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_common.outbox import emit
from wireroom_protos.events.v1 import events_pb2
from wireroom_rag.adapters.chunk_rows_sql import ChunkRow, Removed, Written, delete_rows, draw_ids, settle, write_rows
from wireroom_rag.adapters.connections import worker
from wireroom_rag.adapters.generations_sql import lock_live
from wireroom_rag.adapters.vector_removals_sql import hold_documents, not_written, note_writing, written
from wireroom_rag.domain.generation import POSTGRESQL, Generation, GenerationState
from wireroom_rag.domain.passage import BuiltText, IndexEntry
from wireroom_rag.domain.scope import SourceKind
from wireroom_rag.ports.vectors import NewVectors, VectorIndex, not_set_up

# Generation, document, version.
_Key = tuple[int, UUID, int]


@dataclass
class Reserved:
    """Ids of chunks whose vectors were written to another store, and the note by which they go again unless it is `used`."""

    note: UUID
    ids: Sequence[int]
    used: bool = False


class IndexWriter:
    """Puts versions into the index. `outside` takes the vectors of generations that say so, before the transaction begins."""

    def __init__(self, database: Database, *, outside: VectorIndex | None = None) -> None:
        self._database = database
        self._outside = outside

    async def write(self, tenant_id: UUID, entries: Sequence[IndexEntry]) -> int:
        """Serve these versions from now on, and not the ones before; how many were written.

        A version whose lease is lost is left alone. One that is older than what is served is marked as superseded. UNAVAILABLE when
        another generation serves by now than those that there are vectors for; one that is being built may be left out.
        """
        made = {
            (number, entry.job.key.document_id, entry.job.key.version): _rows(entry, number)
            for entry in entries
            for number in entry.made
        }
        async with self._outside_first(tenant_id, made) as ids, worker(self._database, tenant_id) as connection:
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
                removed = await delete_rows(connection, tenant_id, [entry.job.key.document_id for entry in newer])
                written = [
                    await self._write(
                        connection,
                        tenant_id,
                        generation,
                        {
                            key: made[key]
                            for entry in newer
                            if (key := (generation.number, entry.job.key.document_id, entry.job.key.version)) in made
                        },
                        ids,
                    )
                    for generation in generations.values()
                ]
                await settle(connection, tenant_id, removed, written)
                await _finish(connection, tenant_id, newer)
            return len(newer)

    async def add(self, tenant_id: UUID, generation: Generation, built: BuiltText) -> None:
        """Put a served version into a generation that is being built; nothing happens when either is no longer so, or it is there."""
        async with worker(self._database, tenant_id) as connection:
            facts = await _facts(connection, tenant_id, generation, built)
        if facts is None:
            return
        key = (generation.number, built.document_id, built.version)
        made = {
            key: [
                ChunkRow(built.document_id, built.version, SourceKind(facts[0]), facts[1], *each)
                for each in zip(built.chunks, built.vectors, built.terms, built.title_terms, strict=True)
            ]
        }
        async with self._outside_first(tenant_id, made) as ids, worker(self._database, tenant_id) as connection:
            served = await _lock(connection, tenant_id, [built.document_id])
            live = await lock_live(connection, tenant_id)
            if served.get(built.document_id) != built.version or generation.number not in live:
                return
            if await _facts(connection, tenant_id, generation, built) is None:
                return
            written = await self._write(connection, tenant_id, live[generation.number], made, ids)
            await settle(connection, tenant_id, Removed({}, {}), [written])

    @asynccontextmanager
    async def _outside_first(
        self, tenant_id: UUID, made: Mapping[_Key, Sequence[ChunkRow]]
    ) -> AsyncIterator[Mapping[_Key, Reserved]]:
        """Vectors of generations in another store, under ids that their rows get in the body; those that get none go again."""
        reserved: dict[_Key, Reserved] = {}
        if self._outside is None:
            yield reserved
            return
        async with worker(self._database, tenant_id) as connection:
            there = await hold_documents(connection, tenant_id, {document_id for _, document_id, _ in made})
            live = await lock_live(connection, tenant_id)
            outside = {key: rows for key, rows in made.items() if rows and key[0] in live and live[key[0]].store != POSTGRESQL}
            for key, rows in outside.items():
                if key[1] in there:
                    ids = await draw_ids(connection, len(rows))
                    reserved[key] = Reserved(await note_writing(connection, tenant_id, key[0], key[1], ids), ids)
        try:
            for key, each in reserved.items():
                await self._outside.add(tenant_id, live[key[0]], _new_vectors(each.ids, made[key]))
            yield reserved
        finally:
            # If this fails, or the process ends before it, they go a while later.
            unused = [each.note for each in reserved.values() if not each.used]
            if unused:
                async with worker(self._database, tenant_id) as connection:
                    await not_written(connection, tenant_id, unused)

    async def _write(
        self,
        connection: AsyncConnection,
        tenant_id: UUID,
        generation: Generation,
        made: Mapping[_Key, Sequence[ChunkRow]],
        reserved: Mapping[_Key, Reserved],
    ) -> Written:
        rows = [row for own in made.values() for row in own]
        if generation.store == POSTGRESQL:
            return await write_rows(connection, tenant_id, generation, rows, await draw_ids(connection, len(rows)))
        written_to = {key: reserved[key] for key, own in made.items() if own and key in reserved}
        if len(written_to) < sum(1 for own in made.values() if own):
            raise not_set_up()
        if not await written(connection, tenant_id, [each.note for each in written_to.values()]):
            raise _too_late()
        for each in written_to.values():
            each.used = True
        return await write_rows(
            connection,
            tenant_id,
            generation,
            rows,
            [chunk_id for key, own in made.items() if own for chunk_id in reserved[key].ids],
        )


async def remove_chunks(connection: AsyncConnection, tenant_id: UUID, document_ids: Sequence[UUID]) -> None:
    """Take documents out of the index and out of the statistics; the caller holds their rows' locks."""
    await settle(connection, tenant_id, await delete_rows(connection, tenant_id, document_ids))


def _too_late() -> WireroomError:
    return WireroomError(
        ErrorKind.UNAVAILABLE, "vectors_written_too_slowly", "Writing the vectors took too long; it is done again.", retry_after=1
    )


def _new_vectors(ids: Sequence[int], rows: Sequence[ChunkRow]) -> NewVectors:
    return NewVectors(
        ids,
        [row.document_id for row in rows],
        [row.kind for row in rows],
        [row.published_at for row in rows],
        np.vstack([row.vector for row in rows]),
    )


async def _facts(
    connection: AsyncConnection, tenant_id: UUID, generation: Generation, built: BuiltText
) -> tuple[str, datetime | None] | None:
    """Kind and date of a version that does not stand in the generation yet."""
    found = await connection.execute(
        text(
            """
            SELECT kind, published_at FROM document_versions v
             WHERE tenant_id = :tenant_id AND document_id = :id AND version = :version
               AND NOT EXISTS (SELECT 1 FROM chunks c WHERE c.tenant_id = v.tenant_id AND c.document_id = v.document_id
                                  AND c.version = v.version AND c.generation = :number)
            """
        ),
        {"tenant_id": tenant_id, "id": built.document_id, "version": built.version, "number": generation.number},
    )
    row = found.one_or_none()
    return None if row is None else (row.kind, row.published_at)


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


def _require_serving(generations: Mapping[int, Generation], entries: Sequence[IndexEntry]) -> None:
    serving = next((number for number, found in generations.items() if found.state is GenerationState.SERVING), None)
    if serving is None or any(serving not in entry.made for entry in entries):
        raise WireroomError(
            ErrorKind.UNAVAILABLE,
            "generation_switched",
            "The index was switched meanwhile; the text is embedded again.",
            retry_after=1,
        )


def _rows(entry: IndexEntry, generation: int) -> list[ChunkRow]:
    made = entry.made[generation]
    return [
        ChunkRow(entry.job.key.document_id, entry.job.key.version, entry.job.kind, entry.job.published_at, *each)
        for each in zip(made.chunks, made.vectors, made.terms, made.title_terms, strict=True)
    ]


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
