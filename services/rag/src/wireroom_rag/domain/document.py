"""Documents, their versions and the states that processing takes them through."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from uuid import UUID

from wireroom_rag.domain.access import Access
from wireroom_rag.domain.scope import SourceKind


class State(StrEnum):
    """`received → extracted → chunked → embedded → indexed`, or out of it to `rejected` (the content) or `failed` (the processing).

    `scanned` comes after `received` where there is a virus scanner.
    """

    RECEIVED = "received"
    SCANNED = "scanned"
    EXTRACTED = "extracted"
    CHUNKED = "chunked"
    EMBEDDED = "embedded"
    INDEXED = "indexed"
    REJECTED = "rejected"
    FAILED = "failed"


PENDING = (State.RECEIVED, State.SCANNED, State.EXTRACTED, State.CHUNKED, State.EMBEDDED)


MALWARE_FOUND = "malware_found"
TOO_LARGE_TO_SCAN = "document_too_large_to_scan"
# Of a file: what is larger must not hold up what is not.
SMALL_BYTES = 1_000_000
# Files under these keys are never given out.
QUARANTINE = "quarantine/"


@dataclass(frozen=True)
class Document:
    """A document with its newest version."""

    id: UUID
    owner_id: UUID
    name: str
    version: int
    media_type: str
    size: int
    sha256: str
    state: State
    reason_code: str
    reason: str
    pages: int
    chunks: int
    created_at: datetime
    updated_at: datetime
    access: Access


@dataclass(frozen=True)
class DocumentVersion:
    """One kept version; retrieval finds the one that is `served`."""

    version: int
    media_type: str
    size: int
    sha256: str
    state: State
    reason_code: str
    reason: str
    pages: int
    chunks: int
    created_at: datetime
    served: bool


@dataclass(frozen=True)
class OldVersion:
    """A version that is kept no longer."""

    tenant_id: UUID
    document_id: UUID
    version: int


@dataclass(frozen=True)
class Placement:
    """Who is to read an uploaded document, and the collection that it goes into. No access: the default, or for a version as it was."""

    access: Access | None = None
    collection_id: UUID | None = None


@dataclass(frozen=True)
class StoredFile:
    """An uploaded file whose blob is complete."""

    name: str
    media_type: str
    size: int
    sha256: str
    blob_key: str


@dataclass(frozen=True)
class VersionKey:
    """Names one version of one document."""

    tenant_id: UUID
    document_id: UUID
    version: int


@dataclass(frozen=True)
class Job:
    """A leased version to process."""

    key: VersionKey
    kind: SourceKind
    state: State
    lease_token: UUID
    attempts: int
    created_at: datetime
    title: str
    media_type: str
    size: int
    blob_key: str | None
    published_at: datetime | None


@dataclass(frozen=True)
class ExtractedText:
    """The text of a version. `page_starts` are the offsets (code points) at which pages 1, 2, … begin; empty without pages."""

    content: str
    page_starts: tuple[int, ...] = ()


@dataclass(frozen=True)
class Chunk:
    """A passage to index: `content[start:end]` of the version's text, code points, end exclusive. Page 0 = no pages."""

    start: int
    end: int
    page: int
    text: str


class RejectedError(Exception):
    """The content cannot be used. `code` is stable, `reason` is for people."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(f"{code}: {reason}")
        self.code = code
        self.reason = reason


class MalwareFoundError(RejectedError):
    """The virus scanner knows the content. `signature` is the scanner's name for it."""

    def __init__(self, signature: str) -> None:
        super().__init__(MALWARE_FOUND, f"The file holds malware ({signature}). It is kept in quarantine and not given out.")
        self.signature = signature


class LeaseLostError(Exception):
    """Another worker has the job now; whatever was computed must not be written."""


def page_at(page_starts: Sequence[int], offset: int) -> int:
    """The 1-based page at a text offset; 0 when the text has no pages."""
    return sum(1 for start in page_starts if start <= offset)
