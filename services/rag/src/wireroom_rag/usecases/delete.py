"""Delete documents, and files that nothing refers to."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

from wireroom_common.errors import ErrorKind, WireroomError, not_found
from wireroom_rag.domain.scope import Scope
from wireroom_rag.ports.documents import BlobReferences, BlobStore, DocumentStore

# An upload stores its file before its row: younger files may simply not be registered yet.
ORPHAN_AGE = timedelta(hours=1)


class DeleteDocument:
    """Rows, index and event go in one transaction; then the files. What is left of those is swept later."""

    def __init__(self, documents: DocumentStore, blobs: BlobStore) -> None:
        self._documents = documents
        self._blobs = blobs

    async def __call__(self, scope: Scope, document_id: UUID, *, may_delete_all: bool) -> None:
        """NOT_FOUND for what the caller cannot see; FORBIDDEN for documents of others, unless `may_delete_all`."""
        document = await self._documents.get(scope, document_id)
        if document is None:
            raise not_found("document")
        if document.owner_id != scope.user_id and not may_delete_all:
            raise WireroomError(
                ErrorKind.FORBIDDEN, "document_not_owned", "Only its owner or an administrator may delete this document."
            )
        await self._blobs.delete(await self._documents.delete(scope, document_id))


class SweepOrphans:
    """Deletes files without a row (a process died between the two)."""

    def __init__(self, references: BlobReferences, blobs: BlobStore, *, age: timedelta = ORPHAN_AGE) -> None:
        self._references = references
        self._blobs = blobs
        self._age = age

    async def __call__(self) -> int:
        """How many files were deleted. Harmless to run on several replicas at once."""
        count = 0
        async for keys in self._blobs.older_than(self._age):
            orphans = sorted(set(keys) - await self._references.referenced_blobs(keys)) if keys else []
            await self._blobs.delete(orphans)
            count += len(orphans)
        return count
