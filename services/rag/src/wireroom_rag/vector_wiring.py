"""Vectors beside the database, where somebody wants that: the store, what is removed from it, how it is kept in order."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING

from wireroom_common.db import Database
from wireroom_common.errors import OperatorError
from wireroom_common.runtime.service import Periodic
from wireroom_rag.adapters.vector_removals_sql import VectorRemovalRows
from wireroom_rag.ingest_wiring import bucket_access
from wireroom_rag.ports.vector_upkeep import VectorTables
from wireroom_rag.ports.vectors import VectorIndex
from wireroom_rag.settings import RagSettings
from wireroom_rag.usecases.vector_upkeep import RemoveVectors, TidyVectors

if TYPE_CHECKING:
    from wireroom_rag.adapters.vectors_lancedb import LanceVectors

_TIDY_INTERVAL = 60.0
# A graph over a million vectors takes minutes.
_TIDY_SECONDS = 3600.0


class VectorStore:
    """What the composition root hands on. `index` is None where all vectors are in PostgreSQL; LanceDB is not imported then."""

    def __init__(self, settings: RagSettings, database: Database, data: Path) -> None:
        self._settings = settings
        self._lance = _lance(settings, data) if settings.vectors == "lancedb" or settings.vectors_at else None
        self.index: VectorIndex | None = self._lance
        # Of generations that begin: an installation may be on its way back.
        self.tables: VectorTables | None = self._lance if settings.vectors == "lancedb" else None
        self.removals = VectorRemovalRows(database)
        self.remove = RemoveVectors(self.removals, self.index)

    @property
    def periodic(self) -> tuple[Periodic, ...]:
        """Removes vectors without a chunk; merges and builds."""
        if self._lance is None:
            return ()
        tidy = TidyVectors(self.removals, self._lance, most_seconds=_TIDY_SECONDS)

        async def remove_vectors() -> None:
            await self.remove()

        async def tidy_vectors() -> None:
            await tidy()

        return (
            Periodic("rag_vector_removals", self._settings.purge_seconds, remove_vectors),
            Periodic("rag_vector_upkeep", _TIDY_INTERVAL, tidy_vectors),
        )

    async def stop(self) -> None:
        """Close what is open."""
        if self._lance is not None:
            await self._lance.stop()


def _lance(settings: RagSettings, data: Path) -> LanceVectors:
    try:
        importlib.import_module("lancedb")
    except ModuleNotFoundError as error:
        raise OperatorError(
            "WIREROOM_RAG_VECTORS or WIREROOM_RAG_VECTORS_AT asks for LanceDB, which is not installed: run `make lancedb`, or install"
            " wireroom-rag[lancedb]. There are builds for Linux and for macOS on Apple silicon, none for Intel Macs."
        ) from error
    from wireroom_rag.adapters.vector_place import VectorPlace  # noqa: PLC0415 - only where LanceDB is
    from wireroom_rag.adapters.vectors_lancedb import LanceVectors  # noqa: PLC0415

    return LanceVectors(
        VectorPlace.at(settings.vectors_at, data / "vectors", bucket_access(settings)),
        seconds=settings.vectors_seconds,
        tidy_seconds=_TIDY_SECONDS,
        exact_up_to=settings.exact_scan_chunks,
        cache_bytes=settings.vectors_cache_bytes,
    )
