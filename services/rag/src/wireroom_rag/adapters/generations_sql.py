"""Generations in PostgreSQL: which serve, which are built, and the steps from one to the next."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from wireroom_common.db import Database
from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_common.outbox import emit
from wireroom_protos.events.v1 import events_pb2
from wireroom_rag.adapters import audit_trail
from wireroom_rag.adapters.connections import worker
from wireroom_rag.adapters.provider_terms_sql import IndexReceivers
from wireroom_rag.domain.generation import POSTGRESQL, Blueprint, Generation, GenerationState, GenerationStatus
from wireroom_rag.domain.scope import Scope
from wireroom_rag.ports.vector_upkeep import VectorTables

GENERATION_COLUMNS = "number, model, dimension, chunker, state, store"
_SHOWN = 20
_TURNS = "hashtextextended('rag.generations/' || CAST(:tenant_id AS text), 0)"
# Documents that are served and have something to find.
INDEXED_DOCUMENTS = """
  FROM documents d
  JOIN document_versions v ON v.tenant_id = d.tenant_id AND v.document_id = d.id AND v.version = d.indexed_version
 WHERE d.tenant_id = :tenant_id AND d.deleted_at IS NULL AND v.chunks > 0 AND v.content IS NOT NULL
"""


def generation_of(row: Row[Any]) -> Generation:
    """The generation of a row with `GENERATION_COLUMNS`."""
    return Generation(row.number, Blueprint(row.model, row.dimension, row.chunker), GenerationState(row.state), row.store)


async def lock_live(connection: AsyncConnection, tenant_id: UUID) -> dict[int, Generation]:
    """The serving and the building generation, which stay what they are until the transaction ends. Behind the documents' locks."""
    # In turn with who changes them: locks of rows alone would let one writer after the other overtake him.
    await connection.execute(text(f"SELECT pg_advisory_xact_lock_shared({_TURNS})"), {"tenant_id": tenant_id})
    rows = await connection.execute(
        text(
            f"SELECT {GENERATION_COLUMNS} FROM generations WHERE tenant_id = :tenant_id AND state IN ('serving', 'building')"  # noqa: S608 - constants of this package
            " ORDER BY number FOR SHARE"
        ),
        {"tenant_id": tenant_id},
    )
    return {row.number: generation_of(row) for row in rows}


async def await_writers(connection: AsyncConnection, tenant_id: UUID) -> None:
    """Until the transaction ends nobody has `lock_live`; before what changes the live generations."""
    await connection.execute(text(f"SELECT pg_advisory_xact_lock({_TURNS})"), {"tenant_id": tenant_id})


@dataclass
class _Begun:
    name: str
    used: bool = False


class GenerationStore:
    """Implements `ServingGeneration`, `LiveGenerations` and `GenerationControl`.

    New tenants begin with `default`. Vectors of generations that begin go into `tables`; None: into PostgreSQL.
    """

    def __init__(
        self,
        database: Database,
        default: Blueprint,
        *,
        tables: VectorTables | None = None,
        receivers: IndexReceivers | None = None,
    ) -> None:
        self._database = database
        self._default = default
        self._tables = tables
        self._receivers = receivers or IndexReceivers({}, "")

    async def serving(self, tenant_id: UUID) -> Generation | None:
        """None while nothing was ever indexed."""
        async with worker(self._database, tenant_id) as connection:
            row = (
                await connection.execute(
                    text(f"SELECT {GENERATION_COLUMNS} FROM generations WHERE tenant_id = :tenant_id AND state = 'serving'"),  # noqa: S608 - constants of this package
                    {"tenant_id": tenant_id},
                )
            ).one_or_none()
        return generation_of(row) if row is not None else None

    async def live(self, tenant_id: UUID) -> Sequence[Generation]:
        """The serving one, made when there is none, and behind it the one that is being built, if one is."""
        async with worker(self._database, tenant_id) as connection:
            found = await self._live(connection, tenant_id)
        if not found:
            async with self._begun(tenant_id, self._default) as store, worker(self._database, tenant_id) as connection:
                await connection.execute(
                    text(
                        "INSERT INTO generations (tenant_id, number, model, dimension, chunker, store, state, switched_at)"
                        " VALUES (:tenant_id, 1, :model, :dimension, :chunker, :store, 'serving', now()) ON CONFLICT DO NOTHING"
                    ),
                    {"tenant_id": tenant_id, "store": store.name, **_values(self._default)},
                )
                found = await self._live(connection, tenant_id)
                store.used = any(generation.store == store.name for generation in found)
        return sorted(found, key=lambda generation: generation.state is GenerationState.BUILDING)

    async def statuses(self, scope: Scope) -> Sequence[GenerationStatus]:
        """The newest 20, newest first."""
        async with worker(self._database, scope.tenant_id) as connection:
            total = (
                await connection.execute(text(f"SELECT count(*) {INDEXED_DOCUMENTS}"), {"tenant_id": scope.tenant_id})
            ).scalar_one()
            rows = await connection.execute(
                text(
                    f"""
                    SELECT {GENERATION_COLUMNS}, error, started_at, switched_at, ended_at,
                           (SELECT count(DISTINCT c.document_id) FROM chunks c
                             WHERE c.tenant_id = g.tenant_id AND c.generation = g.number) AS documents,
                           COALESCE((SELECT s.chunks FROM index_statistics s
                                      WHERE s.tenant_id = g.tenant_id AND s.generation = g.number), 0) AS chunks
                      FROM generations g WHERE g.tenant_id = :tenant_id ORDER BY number DESC LIMIT :limit
                    """  # noqa: S608 - constants of this package
                ),
                {"tenant_id": scope.tenant_id, "limit": _SHOWN},
            )
            return [
                GenerationStatus(
                    generation=generation_of(row),
                    documents=row.documents,
                    documents_total=total,
                    chunks=row.chunks,
                    error=row.error,
                    started_at=row.started_at,
                    switched_at=row.switched_at,
                    ended_at=row.ended_at,
                )
                for row in rows
            ]

    async def start(self, scope: Scope, blueprint: Blueprint) -> Generation:
        """Begin to build one. CONFLICT while another is being built."""
        await self.live(scope.tenant_id)
        async with self._begun(scope.tenant_id, blueprint) as store, worker(self._database, scope.tenant_id) as connection:
            await self._receivers.require_for_index(connection, scope.tenant_id, blueprint.model)
            row = (
                await connection.execute(
                    text(
                        f"""
                        INSERT INTO generations (tenant_id, number, model, dimension, chunker, store, state)
                        SELECT :tenant_id, max(number) + 1, :model, :dimension, :chunker, :store, 'building'
                          FROM generations WHERE tenant_id = :tenant_id
                        ON CONFLICT DO NOTHING RETURNING {GENERATION_COLUMNS}
                        """  # noqa: S608 - constants of this package
                    ),
                    {"tenant_id": scope.tenant_id, "store": store.name, **_values(blueprint)},
                )
            ).one_or_none()
            if row is None:
                raise WireroomError(
                    ErrorKind.CONFLICT,
                    "generation_building",
                    "The index is being rebuilt already. Wait until that is done, or abort it first.",
                )
            store.used = True
            generation = generation_of(row)
            event = events_pb2.RagGenerationStarted(
                generation=generation.number, model=blueprint.model, dimension=blueprint.dimension, chunker=blueprint.chunker
            )
            await emit(connection, event, tenant_id=scope.tenant_id, subject=str(generation.number), actor=str(scope.user_id))
            await self._audit(connection, scope, "index.rebuild_started", generation)
            return generation

    async def abort(self, scope: Scope) -> Generation:
        """Stop building; what was built is dropped in the background. CONFLICT when nothing is being built."""
        async with worker(self._database, scope.tenant_id) as connection:
            await await_writers(connection, scope.tenant_id)
            row = (
                await connection.execute(
                    text(
                        "UPDATE generations SET state = 'aborted', ended_at = now(), next_attempt_at = now(), attempts = 0,"  # noqa: S608 - constants of this package
                        " lease_token = NULL, leased_until = NULL WHERE tenant_id = :tenant_id AND state = 'building'"
                        f" RETURNING {GENERATION_COLUMNS}"
                    ),
                    {"tenant_id": scope.tenant_id},
                )
            ).one_or_none()
            if row is None:
                raise WireroomError(ErrorKind.CONFLICT, "generation_not_building", "The index is not being rebuilt.")
            generation = generation_of(row)
            await self._audit(connection, scope, "index.rebuild_aborted", generation)
            return generation

    @asynccontextmanager
    async def _begun(self, tenant_id: UUID, blueprint: Blueprint) -> AsyncIterator[_Begun]:
        """Room for the vectors of a generation, given up again unless it is used."""
        if self._tables is None:
            yield _Begun(POSTGRESQL)
            return
        begun = _Begun(await self._tables.begin(tenant_id, blueprint.dimension))
        try:
            yield begun
        finally:
            if not begun.used:
                await self._tables.abandon(begun.name)

    async def _live(self, connection: AsyncConnection, tenant_id: UUID) -> list[Generation]:
        rows = await connection.execute(
            text(
                f"SELECT {GENERATION_COLUMNS} FROM generations WHERE tenant_id = :tenant_id AND state IN ('serving', 'building')"  # noqa: S608 - constants of this package
            ),
            {"tenant_id": tenant_id},
        )
        return [generation_of(row) for row in rows]

    async def _audit(self, connection: AsyncConnection, scope: Scope, action: str, generation: Generation) -> None:
        await audit_trail.record(
            connection,
            action,
            tenant_id=scope.tenant_id,
            subject=str(generation.number),
            actor=str(scope.user_id),
            model=generation.blueprint.model,
        )


def _values(blueprint: Blueprint) -> dict[str, Any]:
    return {"model": blueprint.model, "dimension": blueprint.dimension, "chunker": blueprint.chunker}
