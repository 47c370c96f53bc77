"""Vectors that are kept: their caches and the upkeep of their table."""

from __future__ import annotations

from wireroom_common.db import Database
from wireroom_common.runtime.service import Infra, Periodic
from wireroom_rag.adapters.kept_vectors_sql import KeptVectorRows, KeptVectorUpkeep
from wireroom_rag.settings import RagSettings
from wireroom_rag.usecases.kept_vectors import KeptVectors, passage_vectors, query_vectors

_DAY = 24 * 3600.0
_UPKEEP_INTERVAL = 3600.0


def kept_vectors(settings: RagSettings, infra: Infra, database: Database) -> KeptVectors:
    """The two caches."""
    caches = infra.caches()
    days = settings.kept_vector_days
    return KeptVectors(
        passages=caches.open(passage_vectors(days * _DAY), bytes, durable=KeptVectorRows(database)) if days else None,
        queries=caches.open(query_vectors(settings.query_vector_seconds), bytes),
    )


def upkeep(settings: RagSettings, database: Database) -> Periodic:
    """Also where none are kept any more: what was kept before goes."""
    sweep = KeptVectorUpkeep(
        database, days=settings.kept_vector_days, most=settings.kept_vectors if settings.kept_vector_days else 0
    )

    async def run() -> None:
        await sweep()

    return Periodic("rag_kept_vectors", _UPKEEP_INTERVAL, run)
