"""Building and dropping generations: leases over all tenants, and the steps within one."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import text

from wireroom_common.db import Database
from wireroom_common.ids import new_id
from wireroom_common.outbox import emit
from wireroom_protos.events.v1 import events_pb2
from wireroom_rag.adapters.chunk_rows_sql import lock_statistics
from wireroom_rag.adapters.connections import worker
from wireroom_rag.adapters.generations_sql import GENERATION_COLUMNS, INDEXED_DOCUMENTS, await_writers, generation_of
from wireroom_rag.domain.document import ExtractedText, LeaseLostError, VersionKey
from wireroom_rag.domain.generation import POSTGRESQL, GenerationState, Task
from wireroom_rag.ports.vectors import VectorIndex, not_set_up

_DROPPED_AT_ONCE = 2_000
_DROP_BLOCKS = """
DELETE FROM posting_blocks WHERE ctid = ANY(ARRAY(
    SELECT ctid FROM posting_blocks WHERE tenant_id = :tenant_id AND generation = :number LIMIT :limit))
"""
_DROP_STEMS = """
DELETE FROM indexed_stems WHERE ctid = ANY(ARRAY(
    SELECT ctid FROM indexed_stems WHERE tenant_id = :tenant_id AND generation = :number LIMIT :limit FOR UPDATE SKIP LOCKED))
"""
_DROP_CHUNKS = """
DELETE FROM chunks c USING (
    SELECT id FROM chunks WHERE tenant_id = :tenant_id AND generation = :number LIMIT :limit FOR UPDATE SKIP LOCKED) part
 WHERE c.tenant_id = :tenant_id AND c.id = part.id
"""
_ANY_LEFT = """
SELECT 1 WHERE EXISTS (SELECT 1 FROM chunks WHERE tenant_id = :tenant_id AND generation = :number)
            OR EXISTS (SELECT 1 FROM indexed_stems WHERE tenant_id = :tenant_id AND generation = :number)
"""
_MISSING = f"""SELECT d.id, v.version {INDEXED_DOCUMENTS}
   AND NOT EXISTS (SELECT 1 FROM chunks c WHERE c.tenant_id = v.tenant_id AND c.document_id = v.document_id
                      AND c.version = v.version AND c.generation = :number)"""  # noqa: S608 - constants of this package


class GenerationJobs:
    """Implements `GenerationQueue` and `GenerationWork`. All times are the database's. `outside` has vectors of generations that say so."""

    def __init__(self, database: Database, *, lease_seconds: float, outside: VectorIndex | None = None) -> None:
        self._database = database
        self._lease_seconds = lease_seconds
        self._outside = outside

    async def claim(self) -> Task | None:
        """Lease the work that is due for the longest time."""
        async with self._database.system() as connection:
            row = (
                await connection.execute(
                    text(
                        f"""
                        UPDATE generations g SET lease_token = :token, leased_until = now() + make_interval(secs => :lease)
                          FROM (SELECT tenant_id AS tenant, number AS due_number FROM generations
                                 WHERE state IN ('building', 'retired', 'aborted') AND next_attempt_at <= now()
                                   AND (leased_until IS NULL OR leased_until < now())
                                 ORDER BY next_attempt_at LIMIT 1 FOR UPDATE SKIP LOCKED) due
                         WHERE g.tenant_id = due.tenant AND g.number = due.due_number
                        RETURNING tenant_id, attempts, {GENERATION_COLUMNS}
                        """  # noqa: S608 - constants of this package
                    ),
                    {"token": (token := new_id()), "lease": self._lease_seconds},
                )
            ).one_or_none()
        return Task(row.tenant_id, generation_of(row), token, row.attempts) if row is not None else None

    async def renew(self, task: Task) -> None:
        """Extend the lease."""
        async with self._database.system() as connection:
            await connection.execute(
                text("UPDATE generations SET leased_until = now() + make_interval(secs => :lease) WHERE lease_token = :token"),
                {"lease": self._lease_seconds, "token": task.lease_token},
            )

    async def release(self, task: Task, *, seconds: float = 0.0, error: str | None = None) -> None:
        """Give the lease back; due again after `seconds`. An `error` is noted and counted, None ends the count."""
        async with self._database.system() as connection:
            await connection.execute(
                text(
                    "UPDATE generations SET lease_token = NULL, leased_until = NULL, error = :error, attempts = :attempts,"
                    " next_attempt_at = GREATEST(next_attempt_at, now() + make_interval(secs => :seconds))"
                    " WHERE lease_token = :token"
                ),
                {
                    "token": task.lease_token,
                    "seconds": seconds,
                    "error": error or "",
                    "attempts": 0 if error is None else task.attempts + 1,
                },
            )

    async def missing(self, task: Task, limit: int, *, from_start: bool) -> Sequence[VersionKey]:
        """Served versions that do not stand in the generation: behind its position, or all of them."""
        behind = (
            ""
            if from_start
            else (
                " AND d.id > COALESCE((SELECT g.position FROM generations g WHERE g.tenant_id = :tenant_id AND g.number = :number),"
                " CAST('00000000-0000-0000-0000-000000000000' AS uuid))"
            )
        )
        async with worker(self._database, task.tenant_id) as connection:
            rows = await connection.execute(
                text(f"{_MISSING}{behind} ORDER BY d.id LIMIT :limit"),
                {"tenant_id": task.tenant_id, "number": task.generation.number, "limit": limit},
            )
            return [VersionKey(task.tenant_id, row.id, row.version) for row in rows]

    async def text_of(self, key: VersionKey) -> tuple[ExtractedText, str] | None:
        """Text and title of a version; None when it is gone."""
        async with worker(self._database, key.tenant_id) as connection:
            row = (
                await connection.execute(
                    text(
                        "SELECT content, page_starts, title FROM document_versions"
                        " WHERE tenant_id = :tenant_id AND document_id = :id AND version = :version AND content IS NOT NULL"
                    ),
                    {"tenant_id": key.tenant_id, "id": key.document_id, "version": key.version},
                )
            ).one_or_none()
        return (ExtractedText(row.content, tuple(row.page_starts)), row.title) if row is not None else None

    async def advance(self, task: Task, document_id: UUID) -> None:
        """Everything up to this document was looked at. LeaseLostError when the work is another worker's, or nobody's."""
        async with worker(self._database, task.tenant_id) as connection:
            moved = await connection.execute(
                text(
                    "UPDATE generations SET position = :position WHERE tenant_id = :tenant_id AND number = :number"
                    " AND lease_token = :token AND state = 'building'"
                ),
                {
                    "position": document_id,
                    "tenant_id": task.tenant_id,
                    "number": task.generation.number,
                    "token": task.lease_token,
                },
            )
        if not moved.rowcount:
            raise LeaseLostError

    async def switch(self, task: Task, *, keep_seconds: float) -> bool:
        """Serve it from now on, atomically, and drop the one before after `keep_seconds`; False if documents are missing."""
        values = {"tenant_id": task.tenant_id, "number": task.generation.number, "keep": keep_seconds}
        async with worker(self._database, task.tenant_id) as connection:
            # Every write of a document holds these rows in share: from here on there is none, and all that were made are visible.
            await await_writers(connection, task.tenant_id)
            rows = await connection.execute(
                text(
                    f"SELECT {GENERATION_COLUMNS} FROM generations WHERE tenant_id = :tenant_id AND state IN ('serving', 'building')"  # noqa: S608 - constants of this package
                    " ORDER BY number FOR UPDATE"
                ),
                values,
            )
            live = {generation.state: generation for generation in map(generation_of, rows)}
            if GenerationState.BUILDING not in live or live[GenerationState.BUILDING].number != task.generation.number:
                return False
            if (await connection.execute(text(f"{_MISSING} LIMIT 1"), values)).one_or_none() is not None:
                return False
            before = live[GenerationState.SERVING]
            await connection.execute(
                text(
                    "UPDATE generations SET state = 'retired', ended_at = now(), error = '', attempts = 0,"
                    " next_attempt_at = now() + make_interval(secs => :keep) WHERE tenant_id = :tenant_id AND state = 'serving'"
                ),
                values,
            )
            await connection.execute(
                text(
                    "UPDATE generations SET state = 'serving', switched_at = now(), error = ''"
                    " WHERE tenant_id = :tenant_id AND number = :number"
                ),
                values,
            )
            await emit(
                connection,
                events_pb2.RagGenerationSwitched(
                    generation=task.generation.number,
                    before=before.number,
                    model=task.generation.blueprint.model,
                    dimension=task.generation.blueprint.dimension,
                ),
                tenant_id=task.tenant_id,
                subject=str(task.generation.number),
            )
            return True

    async def drop_some(self, task: Task) -> bool:
        """Delete a bounded part of a generation that is not read any more; False once nothing was left."""
        values = {"tenant_id": task.tenant_id, "number": task.generation.number, "limit": _DROPPED_AT_ONCE}
        if task.generation.store != POSTGRESQL:
            # Before the rows: nobody would wait for vectors without one when their document is erased.
            if self._outside is None:
                raise not_set_up()
            await self._outside.drop(task.tenant_id, task.generation)
        async with worker(self._database, task.tenant_id) as connection:
            # Words before texts: when a document goes meanwhile, its stems are where its chunks are, or gone already. Whoever takes a
            # document out has deleted those before he waits for the statistics.
            await lock_statistics(connection, task.tenant_id, task.generation.number)
            blocks = await connection.execute(text(_DROP_BLOCKS), values)
            stems = await connection.execute(text(_DROP_STEMS), values)
            if blocks.rowcount or stems.rowcount:
                return True
        async with worker(self._database, task.tenant_id) as connection:
            dropped = await connection.execute(text(_DROP_CHUNKS), values)
            # What others have locked is deleted by them, or the next time.
            if dropped.rowcount or (await connection.execute(text(_ANY_LEFT), values)).one_or_none() is not None:
                return True
        async with worker(self._database, task.tenant_id) as connection:
            await connection.execute(
                text("DELETE FROM index_statistics WHERE tenant_id = :tenant_id AND generation = :number"), values
            )
            ended = await connection.execute(
                text(
                    "UPDATE generations SET state = 'dropped', lease_token = NULL, leased_until = NULL"
                    " WHERE tenant_id = :tenant_id AND number = :number AND state IN ('retired', 'aborted')"
                ),
                values,
            )
            if ended.rowcount:
                await emit(
                    connection,
                    events_pb2.RagGenerationDropped(
                        generation=task.generation.number, aborted=task.generation.state is GenerationState.ABORTED
                    ),
                    tenant_id=task.tenant_id,
                    subject=str(task.generation.number),
                )
            return False
