"""Documents and their files."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from typing import BinaryIO, Protocol
from uuid import UUID

from wireroom_rag.domain.document import Document, Placement, StoredFile
from wireroom_rag.domain.scope import Scope

# Blobs whose keys end so are compressed where they are kept; `write` and `read` do not show it.
COMPRESSED = ".zst"


class BlobStore(Protocol):
    """Files by key; every key begins with the tenant's id."""

    async def write(self, key: str, data: AsyncIterator[bytes]) -> None:
        """Store all of `data`, or nothing when the iterator raises or the caller is cancelled."""

    def read(self, key: str) -> AsyncIterator[bytes]:
        """The blob in pieces; FileNotFoundError when there is none."""

    def open(self, key: str) -> BinaryIO:
        """The blob as a seekable file, to be closed. Blocking. Not for compressed blobs; FileNotFoundError for none."""

    async def move(self, key: str, to: str) -> None:
        """Rename a blob; FileNotFoundError when there is none."""

    async def delete(self, keys: Sequence[str]) -> None:
        """Remove blobs; unknown keys are fine."""

    def older_than(self, age: timedelta) -> AsyncIterator[list[str]]:
        """Keys of blobs at least `age` old, in bounded lists."""


class DocumentStore(Protocol):
    """The documents of the caller's scope."""

    async def register(self, scope: Scope, file: StoredFile, placement: Placement | None = None) -> tuple[Document, bool]:
        """The document of an uploaded file, and whether its blob is used.

        One owner's file names are unique: the same bytes again are the same version (processed again if that had failed), other bytes
        are the next version. CONFLICT, and nothing kept, when there is no room for it.
        """

    async def get(self, scope: Scope, document_id: UUID) -> Document | None:
        """The document with its newest version; None when there is none in the scope."""

    async def content(self, scope: Scope, document_id: UUID) -> tuple[Document, str] | None:
        """The document and the key of its newest version's blob; None when there is none in the scope."""

    async def list(self, scope: Scope, *, limit: int, behind: UUID | None, ascending: bool = False) -> Sequence[Document]:
        """At most `limit` documents behind that one, newest first, or oldest first if `ascending`."""


class BlobReferences(Protocol):
    """Which files are in use, over all tenants; reads nothing else."""

    async def referenced_blobs(self, keys: Sequence[str]) -> set[str]:
        """Which of the blobs belong to a version of any tenant."""
