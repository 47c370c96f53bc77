"""Delete documents in steps that can each be repeated, and files that nothing refers to."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

import structlog

from wireroom_rag.domain.erasure import Signer, Tombstone
from wireroom_rag.domain.scope import Scope
from wireroom_rag.ports.deletion import Erasures, OrphanCount, Tombstones
from wireroom_rag.ports.documents import BlobReferences, BlobStore, DroppedFiles, SweepPositions
from wireroom_rag.usecases.vector_upkeep import RemoveVectors

# An upload stores its file before its row: younger files may simply not be registered yet.
ORPHAN_AGE = timedelta(hours=1)
# Deletion that has not come to its end by then is counted as left over.
_LEFT_OVER = timedelta(seconds=60)
_AT_ONCE = 500
# Parts of one run of the sweep: ten thousand files.
_PARTS = 20
_SWEEP = "orphans"

_log = structlog.get_logger(__name__)


class Purge:
    """What is left of buried documents: the index, then the files, then the row. Whatever stops it, the next run goes on."""

    def __init__(self, tombstones: Tombstones, vectors: RemoveVectors, blobs: BlobStore) -> None:
        self._tombstones = tombstones
        self._vectors = vectors
        self._blobs = blobs

    async def __call__(self) -> int:
        """All of them, of every tenant; how many were completed. Harmless to run on several replicas at once."""
        count = 0
        failed: set[Tombstone] = set()
        while True:
            found = [entry for entry in await self._tombstones.buried(_AT_ONCE + len(failed)) if entry not in failed]
            if not found:
                return count
            for tombstone in found:
                try:
                    await self.one(tombstone)
                    count += 1
                except Exception:  # noqa: BLE001 - logged; the others are not held up, and the next run tries again
                    failed.add(tombstone)
                    _log.exception("deletion_not_completed", document_id=str(tombstone.document_id))

    async def one(self, tombstone: Tombstone) -> None:
        """One document."""
        await self._tombstones.remove_index(tombstone)
        await self._vectors.of_document(tombstone)
        # Before the row, which is the only place that knows of the files.
        await self._blobs.delete(await self._tombstones.blobs(tombstone))
        await self._tombstones.remove(tombstone)


class DeleteDroppedFiles:
    """Files of versions that are gone. A file that cannot be deleted stays noted, and holds up no other."""

    def __init__(self, files: DroppedFiles, blobs: BlobStore) -> None:
        self._files = files
        self._blobs = blobs

    async def __call__(self) -> int:
        """All that are noted; how many were deleted. Harmless to run on several replicas at once."""
        count = 0
        failed: set[str] = set()
        while found := [key for key in await self._files.dropped(_AT_ONCE + len(failed)) if key not in failed]:
            deleted = []
            for key in found:
                try:
                    await self._blobs.delete([key])
                    deleted.append(key)
                except Exception:  # noqa: BLE001 - logged; the others are not held up, and the next run tries again
                    failed.add(key)
                    _log.exception("file_not_deleted")
            await self._files.forget(deleted)
            count += len(deleted)
        return count


class DeleteDocument:
    """The document is gone for everybody when this returns; what is left of it is removed at once or by the next run of `Purge`."""

    def __init__(self, tombstones: Tombstones, purge: Purge) -> None:
        self._tombstones = tombstones
        self._purge = purge

    async def __call__(self, scope: Scope, document_id: UUID, *, may_delete_all: bool) -> None:
        """NOT_FOUND for what the caller cannot see; FORBIDDEN for documents of others, unless `may_delete_all`."""
        tombstone = await self._tombstones.bury(scope, document_id, may_delete_all=may_delete_all)
        try:
            await self._purge.one(tombstone)
        except Exception:  # noqa: BLE001 - the document is deleted; what is left is the periodic purge's
            _log.exception("deletion_not_completed", document_id=str(document_id))


class CompleteErasures:
    """Receipts for erasures of which nothing is left."""

    def __init__(self, erasures: Erasures, signer: Signer) -> None:
        self._erasures = erasures
        self._signer = signer

    async def __call__(self) -> int:
        """How many were completed."""
        count = 0
        for erasure in await self._erasures.finished(_AT_ONCE):
            if await self._erasures.complete(erasure, self._signer) is not None:
                count += 1
                _log.info("erasure_completed", erasure_id=str(erasure.id))
        return count


class SweepOrphans:
    """Deletes files without a row (a process died between the two) and counts what is left over of anything.

    A run looks at a bounded part of the store and the next one goes on behind it, so that each file has its turn.
    """

    def __init__(
        self,
        references: BlobReferences,
        tombstones: Tombstones,
        blobs: BlobStore,
        positions: SweepPositions,
        counts: OrphanCount,
        *,
        age: timedelta = ORPHAN_AGE,
        at_once: int = _AT_ONCE,
    ) -> None:
        self._references = references
        self._tombstones = tombstones
        self._blobs = blobs
        self._positions = positions
        self._counts = counts
        self._age = age
        self._at_once = at_once
        # Files that could not be deleted, in this round through the store and in the last complete one.
        self._left = self._left_before = 0

    async def __call__(self) -> int:
        """How many files were deleted. Harmless to run on several replicas at once."""
        self._counts.left("document", len(await self._tombstones.buried(10_000, older_than=_LEFT_OVER)))
        deleted = 0
        position = await self._positions.position(_SWEEP)
        for _ in range(_PARTS):
            if not position:
                self._left = 0
            keys, position = await self._blobs.older_than(self._age, after=position, limit=self._at_once)
            deleted += await self._delete(keys)
            await self._positions.move(_SWEEP, position)
            if not position:
                self._left_before = self._left
                break
        self._counts.left("file", max(self._left, self._left_before))
        return deleted

    async def _delete(self, keys: list[str]) -> int:
        orphans = sorted(set(keys) - await self._references.referenced_blobs(keys)) if keys else []
        try:
            await self._blobs.delete(orphans)
        except Exception:  # noqa: BLE001 - counted and logged; the other files are not held up, and the next round tries again
            self._left += len(orphans)
            _log.exception("orphans_not_deleted", files=len(orphans))
            return 0
        return len(orphans)
