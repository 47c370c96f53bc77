"""Delete documents in steps that can each be repeated, and files that nothing refers to."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

import structlog

from wireroom_rag.domain.erasure import Signer, Tombstone
from wireroom_rag.domain.scope import Scope
from wireroom_rag.ports.deletion import Erasures, OrphanCount, Tombstones
from wireroom_rag.ports.documents import BlobReferences, BlobStore

# An upload stores its file before its row: younger files may simply not be registered yet.
ORPHAN_AGE = timedelta(hours=1)
# Deletion that has not come to its end by then is counted as left over.
_LEFT_OVER = timedelta(seconds=60)
_AT_ONCE = 500

_log = structlog.get_logger(__name__)


class Purge:
    """What is left of buried documents: the index, then the files, then the row. Whatever stops it, the next run goes on."""

    def __init__(self, tombstones: Tombstones, blobs: BlobStore) -> None:
        self._tombstones = tombstones
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
        # Before the row, which is the only place that knows of the files.
        await self._blobs.delete(await self._tombstones.blobs(tombstone))
        await self._tombstones.remove(tombstone)


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
    """Deletes files without a row (a process died between the two) and counts what is left over of anything."""

    def __init__(
        self,
        references: BlobReferences,
        tombstones: Tombstones,
        blobs: BlobStore,
        counts: OrphanCount,
        *,
        age: timedelta = ORPHAN_AGE,
    ) -> None:
        self._references = references
        self._tombstones = tombstones
        self._blobs = blobs
        self._counts = counts
        self._age = age

    async def __call__(self) -> int:
        """How many files were deleted. Harmless to run on several replicas at once."""
        self._counts.left("document", len(await self._tombstones.buried(10_000, older_than=_LEFT_OVER)))
        deleted = left = 0
        async for keys in self._blobs.older_than(self._age):
            orphans = sorted(set(keys) - await self._references.referenced_blobs(keys)) if keys else []
            if not orphans:
                continue
            try:
                await self._blobs.delete(orphans)
                deleted += len(orphans)
            except Exception:  # noqa: BLE001 - counted and logged; the other files are not held up, and the next run tries again
                left += len(orphans)
                _log.exception("orphans_not_deleted", files=len(orphans))
        self._counts.left("file", left)
        return deleted
