"""Give a file back as it was uploaded."""

from __future__ import annotations

from collections.abc import AsyncIterator
from uuid import UUID

from wireroom_common.errors import ErrorKind, WireroomError, not_found
from wireroom_rag.domain.document import QUARANTINE, Document
from wireroom_rag.domain.scope import Scope
from wireroom_rag.ports.documents import BlobStore, DocumentStore


class ReadContent:
    """The newest version's file."""

    def __init__(self, documents: DocumentStore, blobs: BlobStore) -> None:
        self._documents = documents
        self._blobs = blobs

    async def __call__(self, scope: Scope, document_id: UUID) -> tuple[Document, AsyncIterator[bytes]]:
        """The document and its file in pieces; NOT_FOUND for what the caller cannot see, or while reading, for a file that is gone."""
        found = await self._documents.content(scope, document_id)
        if found is None:
            raise not_found("document")
        document, key = found
        if key.startswith(QUARANTINE):
            raise WireroomError(
                ErrorKind.CONFLICT, "document_quarantined", "The file holds malware: it is kept in quarantine and not given out."
            )
        return document, self._pieces(key)

    async def _pieces(self, key: str) -> AsyncIterator[bytes]:
        try:
            async for block in self._blobs.read(key):
                yield block
        except FileNotFoundError:
            raise WireroomError(
                ErrorKind.NOT_FOUND, "document_file_missing", "The file of this document is not there any more. Upload it again."
            ) from None
