"""Retrieved text and the exact pieces of it that an answer cites."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class SourceKind(StrEnum):
    """Where a passage comes from."""

    DOCUMENT = "document"
    ARTICLE = "article"


@dataclass(frozen=True)
class Passage:
    """A piece of a stored text. `start` and `end` are code points in that version's text, end exclusive."""

    id: str
    document_id: str
    version: int
    kind: SourceKind
    title: str
    url: str
    page: int
    start: int
    end: int
    text: str
    score: float
    dense_score: float
    lexical_score: float
    published_at: datetime | None = None


@dataclass(frozen=True)
class Quote:
    """The code points `start` to `end` of a passage's text."""

    passage: Passage
    start: int
    end: int

    @property
    def text(self) -> str:
        """The quoted text, untouched."""
        return self.passage.text[self.start : self.end]

    @property
    def line(self) -> str:
        """The quoted text with each run of white space as one space."""
        return " ".join(self.text.split())

    @property
    def span(self) -> tuple[int, int]:
        """Where the quote stands in the stored version.

        When the passage's text is not its span code point for code point, positions inside it mean nothing there: the passage's own span.
        """
        passage = self.passage
        if len(passage.text) != passage.end - passage.start:
            return passage.start, passage.end
        return passage.start + self.start, passage.start + self.end


@dataclass(frozen=True)
class Citation:
    """A quote that was found in the stored text; `id` names its permalink."""

    quote: Quote
    id: str


@dataclass(frozen=True)
class Annotation:
    """A citation of the answer's code points `start` to `end` (exclusive): the cited sentence with its markers."""

    start: int
    end: int
    number: int
    citation: Citation
