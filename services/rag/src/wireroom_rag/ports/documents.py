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

    async def older_than(self, age: timedelta, *, prefix: str = "", after: str = "", limit: int = 500) -> tuple[list[str], str]:
        """Of the next `limit` blobs below the folder `prefix` those that are at least `age` old, and where to go on; empty at the end.

        What an upload that was cut off has left is among them. The order is the store's, the same each time.
        """


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


class DroppedFiles(Protocol):
    """Files, of all tenants, that are to be deleted and whose rows are gone."""

    async def dropped(self, limit: int) -> Sequence[str]:
        """Their keys, oldest first."""

    async def forget(self, keys: Sequence[str]) -> None:
        """They are deleted."""


class SweepPositions(Protocol):
    """How far sweeps of the blob store are: a run looks at a part, the next one at what follows."""

    async def position(self, sweep: str) -> str:
        """Where it goes on; empty at the beginning."""

    async def move(self, sweep: str, position: str) -> None:
        """Go on there."""


class BlobReferences(Protocol):
    """Which files are in use, over all tenants; reads nothing else."""

    async def referenced_blobs(self, keys: Sequence[str]) -> set[str]:
        """Which of the blobs belong to a version of any tenant."""
