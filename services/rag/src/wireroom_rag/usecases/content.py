"""Give a file back as it was uploaded."""

from __future__ import annotations

from collections.abc import AsyncIterator
from uuid import UUID

from wireroom_common.errors import ErrorKind, WireroomError, not_found
from wireroom_rag.domain.document import QUARANTINE, TOO_LARGE_TO_SCAN, Document, State
from wireroom_rag.domain.scope import Scope
from wireroom_rag.ports.documents import BlobStore, DocumentStore

# In the others a file may be that was not looked at, or not to the end: processing was cancelled, or the scanner did not answer.
_SCANNED = (State.SCANNED, State.EXTRACTED, State.CHUNKED, State.EMBEDDED, State.INDEXED, State.REJECTED)


class ReadContent:
    """The newest version's file. `scans`: there is a virus scanner, so that what it has not seen goes to its owner alone."""

    def __init__(self, documents: DocumentStore, blobs: BlobStore, *, scans: bool) -> None:
        self._documents = documents
        self._blobs = blobs
        self._scans = scans

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
        if self._scans and document.owner_id != scope.user_id and not _is_scanned(document):
            raise WireroomError(
                ErrorKind.CONFLICT,
                "document_not_scanned",
                "The file has not been scanned for viruses: until then only its owner gets it.",
                retry_after=5,
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


def _is_scanned(document: Document) -> bool:
    return document.state in _SCANNED and document.reason_code != TOO_LARGE_TO_SCAN
