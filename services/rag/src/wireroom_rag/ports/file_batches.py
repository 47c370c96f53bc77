"""Batches of documents in collections."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol
from uuid import UUID

from wireroom_rag.domain.collection import IdPage
from wireroom_rag.domain.file_batch import BatchEntry, BatchStatus, FileBatch, NewEntry
from wireroom_rag.domain.scope import Scope


class FileBatchStore(Protocol):
    """A batch is known to its owner and to managers, as long as they see its collection; NOT_FOUND to others."""

    async def create(self, scope: Scope, collection_id: UUID, entries: Sequence[NewEntry]) -> FileBatch:
        """All documents are members, or none; errors as those of adding one."""

    async def get(self, scope: Scope, collection_id: UUID, batch_id: UUID) -> FileBatch:
        """The batch."""

    async def cancel(self, scope: Scope, collection_id: UUID, batch_id: UUID) -> FileBatch:
        """Take those documents out of the collection that nobody has begun to read."""

    async def list(
        self, scope: Scope, collection_id: UUID, batch_id: UUID, page: IdPage, status: BatchStatus | None
    ) -> tuple[Sequence[BatchEntry], bool]:
        """A page by document id, and whether there is more."""
