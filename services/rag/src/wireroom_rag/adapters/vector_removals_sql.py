"""Vectors that must go from another store, and whose turn it is to be tidied there."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from wireroom_common.db import Database
from wireroom_common.ids import new_id
from wireroom_rag.adapters.connections import worker
from wireroom_rag.adapters.generations_sql import GENERATION_COLUMNS, generation_of
from wireroom_rag.domain.erasure import Tombstone
from wireroom_rag.domain.generation import Generation
from wireroom_rag.ports.vector_upkeep import VectorRemoval

# A writer has ended by then, or is dead.
WRITING_SECONDS = 600.0
_COUNTED = 10_000
_REMOVALS = f"""
SELECT r.tenant_id, r.id, r.chunk_ids, r.due_at <= now() AS due, {", ".join(f"g.{column}" for column in GENERATION_COLUMNS.split(", "))}
  FROM vector_removals r JOIN generations g ON g.tenant_id = r.tenant_id AND g.number = r.generation
"""  # noqa: S608 - constants of this package
# To be put between the deletion of chunks (`gone`: id, document_id, generation) and what is made of it.
NOTED = """
    noted AS (
        INSERT INTO vector_removals (tenant_id, id, generation, document_id, chunk_ids)
        SELECT :tenant_id, gen_random_uuid(), o.generation, o.document_id, array_agg(o.id)
          FROM gone o JOIN generations g ON g.tenant_id = :tenant_id AND g.number = o.generation AND g.store <> 'postgresql'
         GROUP BY o.generation, o.document_id
    )"""


async def hold_documents(connection: AsyncConnection, tenant_id: UUID, document_ids: Collection[UUID]) -> set[UUID]:
    """Those that are there and not deleted, and stay so until the transaction ends: nothing is written for others."""
    rows = await connection.execute(
        text(
            "SELECT id FROM documents WHERE tenant_id = :tenant_id AND id = ANY(CAST(:ids AS uuid[])) AND deleted_at IS NULL"
            " ORDER BY id FOR SHARE"
        ),
        {"tenant_id": tenant_id, "ids": list(document_ids)},
    )
    return set(rows.scalars())


async def note_writing(
    connection: AsyncConnection, tenant_id: UUID, generation: int, document_id: UUID, chunk_ids: Sequence[int]
) -> UUID:
    """Before vectors are written: they go again unless `written` is said of this note in the transaction of their rows."""
    note = new_id()
    await connection.execute(
        text(
            "INSERT INTO vector_removals (tenant_id, id, generation, document_id, chunk_ids, due_at) VALUES"
            " (:tenant_id, :id, :generation, :document_id, CAST(:chunk_ids AS bigint[]), now() + make_interval(secs => :seconds))"
        ),
        {
            "tenant_id": tenant_id,
            "id": note,
            "generation": generation,
            "document_id": document_id,
            "chunk_ids": list(chunk_ids),
            "seconds": WRITING_SECONDS,
        },
    )
    return note


async def written(connection: AsyncConnection, tenant_id: UUID, notes: Sequence[UUID]) -> bool:
    """The rows are written in this transaction. False when it came too late: the vectors may be gone, the transaction must not commit."""
    kept = await connection.execute(
        text(
            "DELETE FROM vector_removals WHERE tenant_id = :tenant_id AND id = ANY(CAST(:notes AS uuid[]))"
            # Whoever removes them reads the note before: this transaction has ended by then.
            " AND due_at > clock_timestamp() + interval '120 seconds'"
        ),
        {"tenant_id": tenant_id, "notes": list(notes)},
    )
    return kept.rowcount == len(notes)


async def not_written(connection: AsyncConnection, tenant_id: UUID, notes: Sequence[UUID]) -> None:
    """There will be no rows: the vectors may go now."""
    await connection.execute(
        text("UPDATE vector_removals SET due_at = now() WHERE tenant_id = :tenant_id AND id = ANY(CAST(:notes AS uuid[]))"),
        {"tenant_id": tenant_id, "notes": list(notes)},
    )


class VectorRemovalRows:
    """Implements `VectorRemovals` and `TidyingQueue`. All times are the database's."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def due(self, limit: int) -> Sequence[VectorRemoval]:
        async with self._database.system() as connection:
            rows = await connection.execute(
                text(f"{_REMOVALS} WHERE r.due_at <= now() ORDER BY r.due_at LIMIT :limit"), {"limit": limit}
            )
            return [_removal(row) for row in rows]

    async def of_document(self, tombstone: Tombstone, limit: int) -> Sequence[VectorRemoval]:
        async with worker(self._database, tombstone.tenant_id) as connection:
            rows = await connection.execute(
                text(
                    f"{_REMOVALS} WHERE r.tenant_id = :tenant_id AND r.document_id = :document_id ORDER BY r.due_at LIMIT :limit"
                ),
                {"tenant_id": tombstone.tenant_id, "document_id": tombstone.document_id, "limit": limit},
            )
            return [_removal(row) for row in rows]

    async def done(self, removals: Sequence[VectorRemoval]) -> None:
        tenant_id = removals[0].tenant_id
        async with worker(self._database, tenant_id) as connection:
            await connection.execute(
                text("DELETE FROM vector_removals WHERE tenant_id = :tenant_id AND id = ANY(CAST(:ids AS uuid[]))"),
                {"tenant_id": tenant_id, "ids": [removal.id for removal in removals]},
            )

    async def left_over(self) -> int:
        async with self._database.system() as connection:
            found = await connection.execute(
                text(
                    "SELECT COALESCE(sum(cardinality(chunk_ids)), 0) FROM"
                    " (SELECT chunk_ids FROM vector_removals WHERE due_at < now() - interval '60 seconds' LIMIT :most) late"
                ),
                {"most": _COUNTED},
            )
            return int(found.scalar_one())

    async def claim(self, seconds: float) -> tuple[UUID, Generation] | None:
        async with self._database.system() as connection:
            row = (
                await connection.execute(
                    text(
                        f"""
                        UPDATE generations g SET upkeep_at = now() + make_interval(secs => :seconds)
                          FROM (SELECT tenant_id AS tenant, number AS due_number FROM generations
                                 WHERE store <> 'postgresql' AND state IN ('building', 'serving') AND upkeep_at <= now()
                                 ORDER BY upkeep_at LIMIT 1 FOR UPDATE SKIP LOCKED) due
                         WHERE g.tenant_id = due.tenant AND g.number = due.due_number
                        RETURNING tenant_id, {GENERATION_COLUMNS}
                        """  # noqa: S608 - constants of this package
                    ),
                    {"seconds": seconds},
                )
            ).one_or_none()
        return (row.tenant_id, generation_of(row)) if row is not None else None

    async def due_again(self, tenant_id: UUID, generation: Generation, seconds: float) -> None:
        async with self._database.system() as connection:
            await connection.execute(
                text(
                    "UPDATE generations SET upkeep_at = now() + make_interval(secs => :seconds)"
                    " WHERE tenant_id = :tenant_id AND number = :number"
                ),
                {"tenant_id": tenant_id, "number": generation.number, "seconds": seconds},
            )


def _removal(row: Row[Any]) -> VectorRemoval:
    return VectorRemoval(row.tenant_id, row.id, generation_of(row), list(row.chunk_ids), row.due)
