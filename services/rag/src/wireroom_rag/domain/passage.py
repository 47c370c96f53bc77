"""Passages and spans: what goes into the index, and what comes out of it and out of the stored texts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from wireroom_rag.domain.document import Chunk, ExtractedText, Job
from wireroom_rag.domain.scope import SourceKind

# Unit vectors, one per row.
Vectors = NDArray[np.float32]


@dataclass(frozen=True)
class IndexEntry:
    """One version, ready to be served."""

    job: Job
    chunks: Sequence[Chunk]
    vectors: Vectors
    terms: Sequence[Counter[str]]
    # For texts that were not stored by an earlier stage: the text itself, its title and address.
    found: ExtractedText | None = None
    title: str | None = None
    url: str | None = None


@dataclass(frozen=True)
class FoundPassage:
    """One passage with the scores of each stage."""

    id: int
    document_id: UUID
    version: int
    kind: SourceKind
    title: str
    url: str
    page: int
    start: int
    end: int
    text: str
    published_at: datetime | None
    score: float
    dense_score: float
    lexical_score: float


@dataclass(frozen=True)
class Span:
    """`text[start:end]` of a version: code points, end exclusive."""

    document_id: UUID
    version: int
    start: int
    end: int


@dataclass(frozen=True)
class CitedText:
    """A span of a stored version with its surroundings."""

    kind: SourceKind
    title: str
    url: str
    page_starts: Sequence[int]
    text: str
    before: str
    after: str
