"""The way of a version from its bytes to the index."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol
from uuid import UUID

from wireroom_rag.domain.document import ExtractedText, Job, MalwareFoundError
from wireroom_rag.domain.passage import Vectors
from wireroom_rag.domain.scope import SourceKind


class ExtractionCrashedError(Exception):
    """The extraction process died for a reason that need not lie in the file; trying again makes sense."""


class Extractor(Protocol):
    """Text out of a file."""

    async def extract(self, media_type: str, size: int, data: AsyncIterator[bytes]) -> ExtractedText:
        """RejectedError when the file is at fault, ExtractionCrashedError when the process died."""


class Scanner(Protocol):
    """A virus scanner."""

    async def scan(self, data: AsyncIterator[bytes]) -> str:
        """The name of the malware in a file; empty for none. RejectedError for one that it does not take, UNAVAILABLE when it is away."""


@dataclass(frozen=True)
class ArticleText:
    """One version of an article."""

    title: str
    text: str
    url: str
    published_at: datetime | None


class ArticleSource(Protocol):
    """The news service."""

    async def fetch(self, tenant_id: UUID, article_id: UUID, version: int) -> ArticleText:
        """WireroomError NOT_FOUND when the article is gone, UNAVAILABLE or DEADLINE when the service is."""


class Embeddings(Protocol):
    """One embedding model."""

    async def passages(self, texts: Sequence[str]) -> Vectors:
        """Unit vectors [len(texts), dimension]; every text fits the model. WireroomError UNAVAILABLE when it does not answer."""

    async def query(self, windows: Sequence[str]) -> Vectors:
        """One unit vector. WireroomError UNAVAILABLE or DEADLINE when the model does not answer."""


class JobQueue(Protocol):
    """Leases: `claim` over all tenants, then kept or given back."""

    async def claim(self, kind: SourceKind, limit: int, *, max_size: int | None = None) -> Sequence[Job]:
        """Lease up to `limit` due jobs under one token: those of the tenants with the fewest in work first, of these the oldest.

        Jobs of workers that fell silent are among them. `max_size`: only files up to that many bytes.
        """

    async def renew(self, lease_token: UUID) -> bool:
        """Extend the leases taken with this token; False when none is held any more."""

    async def release(self, lease_token: UUID) -> None:
        """Give back what is held with this token, at once and uncounted."""


class OverdueJobs(Protocol):
    """Jobs that have stood in one state for too long."""

    async def claim_overdue(self, waiting_seconds: float, stage_seconds: float, limit: int) -> Sequence[Job]:
        """Take over up to `limit` of them, from whoever works on them; `waiting_seconds` is for `received` and `scanned`."""

    async def fail(self, job: Job, code: str, reason: str) -> None:
        """Processing gave up; LeaseLostError when another worker has the job by now."""


class JobStates(Protocol):
    """The states of leased jobs. LeaseLostError wherever another worker has the job by now."""

    async def text_of(self, job: Job) -> ExtractedText | None:
        """The text that an earlier stage stored; None before that stage."""

    async def scanned(self, job: Job) -> None:
        """`received → scanned`."""

    async def quarantine(self, job: Job, malware: MalwareFoundError) -> str:
        """`rejected`, and the file is known by a key in quarantine from now on, which is returned; moving it is left to the caller."""

    async def extracted(self, job: Job, found: ExtractedText) -> None:
        """`received → extracted`, with the text."""

    async def chunked(self, job: Job, count: int) -> None:
        """`extracted → chunked`."""

    async def embedded(self, job: Job) -> None:
        """`chunked → embedded`."""

    async def reject(self, job: Job, code: str, reason: str) -> None:
        """The content cannot be used."""

    async def fail(self, job: Job, code: str, reason: str) -> None:
        """Processing gave up."""

    async def retry_later(self, job: Job, seconds: float, *, counted: bool) -> None:
        """Give the lease back; due again after `seconds`. `counted=False` takes the attempt back (the world was at fault)."""

    async def age_seconds(self, job: Job) -> float:
        """How long ago the job was received."""
