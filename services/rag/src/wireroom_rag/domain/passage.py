"""Passages and spans: what goes into the index, and what comes out of it and out of the stored texts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from wireroom_rag.domain.document import Chunk, ExtractedText, Job
from wireroom_rag.domain.provider_terms import Terms
from wireroom_rag.domain.scope import SourceKind

# Unit vectors, one per row.
Vectors = NDArray[np.float32]


@dataclass(frozen=True)
class Passages:
    """What one generation holds of a text: one row of `vectors` and one count of terms per chunk."""

    chunks: Sequence[Chunk]
    vectors: Vectors
    terms: Sequence[Counter[str]]
    # Of each chunk's title and headings.
    title_terms: Sequence[Counter[str]]


@dataclass(frozen=True)
class IndexEntry:
    """One version, ready to be served."""

    job: Job
    # By the number of the generation, the one that serves first.
    made: Mapping[int, Passages]
    # For texts that were not stored by an earlier stage: the text itself, its title and address.
    found: ExtractedText | None = None
    title: str | None = None
    url: str | None = None

    @property
    def chunks(self) -> Sequence[Chunk]:
        """Those of the generation that serves."""
        return next(iter(self.made.values())).chunks


@dataclass(frozen=True)
class BuiltText:
    """A served version, made ready for one more generation."""

    document_id: UUID
    version: int
    chunks: Sequence[Chunk]
    vectors: Vectors
    terms: Sequence[Counter[str]]
    title_terms: Sequence[Counter[str]]


@dataclass(frozen=True)
class FoundPassage:
    """One passage with the scores and ranks (from 1; 0 where it was not found) of each stage."""

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
    dense_rank: int = 0
    lexical_rank: int = 0
    # BM25 by field: "title" and "body".
    field_scores: Mapping[str, float] = field(default_factory=dict)
    # Reciprocal ranks, before anything else was done.
    fused_score: float = 0.0
    # What being news of late added.
    recency_score: float = 0.0
    rerank_score: float = 0.0
    # What was taken off for likeness to better passages.
    mmr_penalty: float = 0.0
    # Only where it was asked for.
    vector: Vectors | None = None
    # Of each collection of its document that has any.
    provider_terms: Sequence[Terms] = ()


@dataclass(frozen=True)
class Widened:
    """A passage with its neighbours: `text` is what stands at `start` to `end`."""

    start: int
    end: int
    text: str


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
