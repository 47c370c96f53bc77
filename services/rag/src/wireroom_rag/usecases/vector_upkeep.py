"""Vectors beside the database: remove those without a row, and keep the others in order."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

import structlog

from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_rag.domain.erasure import Tombstone
from wireroom_rag.ports.deletion import OrphanCount
from wireroom_rag.ports.vector_upkeep import TidyingQueue, VectorRemoval, VectorRemovals, VectorTidying
from wireroom_rag.ports.vectors import VectorIndex, not_set_up

_AT_ONCE = 100
_MOST = 5_000
# Generations of one run, and how often each has its turn.
_TIDIED = 50
_TURN_SECONDS = 600.0
# Beyond the time limit of the work.
_GRACE_SECONDS = 60.0

_log = structlog.get_logger(__name__)


class RemoveVectors:
    """Removes from the store what the database says must go. Every step may be repeated, and on several replicas at once."""

    def __init__(self, removals: VectorRemovals, index: VectorIndex | None) -> None:
        self._removals = removals
        self._index = index

    async def __call__(self) -> int:
        """What is due, up to a bound; how many were done. What fails is left for the next run and holds up nothing else."""
        count = 0
        failed: set[UUID] = set()
        while count + len(failed) < _MOST:
            found = [removal for removal in await self._removals.due(_AT_ONCE + len(failed)) if removal.id not in failed]
            if not found:
                break
            for together in _by_generation(found):
                try:
                    await self._remove(together)
                    count += len(together)
                except WireroomError as error:
                    failed.update(removal.id for removal in together)
                    _log.warning("vectors_not_removed", tenant_id=str(together[0].tenant_id), error=error.code)
        return count

    async def of_document(self, tombstone: Tombstone) -> None:
        """All of a buried document. UNAVAILABLE as long as some are left, or are being written just now."""
        while found := await self._removals.of_document(tombstone, _AT_ONCE):
            due = [removal for removal in found if removal.due]
            for together in _by_generation(due):
                await self._remove(together)
            if len(due) < len(found):
                raise WireroomError(
                    ErrorKind.UNAVAILABLE, "vectors_being_written", "Vectors of the document are being written.", retry_after=5
                )

    async def _remove(self, together: Sequence[VectorRemoval]) -> None:
        """Of one generation: each call of the store is a commit there."""
        if self._index is None:
            raise not_set_up()
        ids = [chunk_id for removal in together for chunk_id in removal.chunk_ids]
        await self._index.remove(together[0].tenant_id, together[0].generation, ids)
        await self._removals.done(together)


def _by_generation(removals: Sequence[VectorRemoval]) -> list[list[VectorRemoval]]:
    groups: dict[tuple[UUID, int], list[VectorRemoval]] = {}
    for removal in removals:
        groups.setdefault((removal.tenant_id, removal.generation.number), []).append(removal)
    return list(groups.values())


class CountVectors:
    """Tells how many vectors are left over."""

    def __init__(self, removals: VectorRemovals, counts: OrphanCount) -> None:
        self._removals = removals
        self._counts = counts

    async def __call__(self) -> None:
        self._counts.left("vector", await self._removals.left_over())


class TidyVectors:
    """Gives each generation its turn; one that fails has the next one with the others. `most_seconds` is the store's limit of a turn."""

    def __init__(self, queue: TidyingQueue, store: VectorTidying, *, most_seconds: float) -> None:
        self._queue = queue
        self._store = store
        self._most_seconds = most_seconds

    async def __call__(self) -> int:
        """How many were tidied."""
        count = 0
        for _ in range(_TIDIED):
            claimed = await self._queue.claim(self._most_seconds + _GRACE_SECONDS)
            if claimed is None:
                break
            tenant_id, generation = claimed
            try:
                await self._store.tidy(tenant_id, generation)
                count += 1
            except WireroomError as error:
                _log.warning("vectors_not_tidied", tenant_id=str(tenant_id), generation=generation.number, error=error.code)
            await self._queue.due_again(tenant_id, generation, _TURN_SECONDS)
        return count
