"""What the use cases need from the world."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol
from uuid import UUID

from wireroom_rag.domain.document import ExtractedText
from wireroom_rag.embedding.embedder import Vectors


class ExtractionCrashedError(Exception):
    """The extraction process died for a reason that need not lie in the file; trying again makes sense."""


class Extractor(Protocol):
    """Text out of a file."""

    async def extract(self, media_type: str, size: int, data: AsyncIterator[bytes]) -> ExtractedText:
        """RejectedError when the file is at fault, ExtractionCrashedError when the process died."""


class BlobStore(Protocol):
    """Files by key; every key begins with the tenant's id."""

    async def write(self, key: str, data: AsyncIterator[bytes]) -> None:
        """Store all of `data`, or nothing when the iterator raises or the caller is cancelled."""

    def read(self, key: str) -> AsyncIterator[bytes]:
        """The blob in pieces; FileNotFoundError when there is none."""

    async def delete(self, keys: Sequence[str]) -> None:
        """Remove blobs; unknown keys are fine."""

    def older_than(self, age: timedelta) -> AsyncIterator[list[str]]:
        """Keys of blobs at least `age` old, in bounded lists."""


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
    """The embedding model."""

    async def passages(self, texts: Sequence[str]) -> Vectors:
        """Unit vectors [len(texts), 384]; every text fits the model."""

    async def query(self, windows: Sequence[str]) -> Vectors:
        """One unit vector [384]."""
