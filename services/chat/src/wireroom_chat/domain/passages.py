"""Retrieved text and the exact pieces of it that an answer cites."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from wireroom_chat.domain.source_terms import ANY, SourceTerms

# Bidirectional overrides and isolates, and other invisible format characters (joiners stay: scripts and emoji need them).
STEERING = re.compile("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]")
_FOREIGN_MARK = re.compile(r"\[(\d{1,4})\]")


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
    # Which providers may receive it.
    terms: SourceTerms = ANY


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
        """The quoted text on one line, for an answer: white space collapsed, and nothing in it that a reader's program would act on.

        A source must not load pictures into the reader's page, look like a checked citation, or turn the direction of the text.
        """
        plain = STEERING.sub("", self.text).replace("![", "! [")
        return " ".join(_FOREIGN_MARK.sub(r"(\1)", plain).split())

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
class Span:
    """A stretch of a stored version and what stands there."""

    document_id: str
    version: int
    start: int
    end: int
    quote: str

    @classmethod
    def of(cls, quote: Quote) -> Span:
        """Where a quote stands."""
        start, end = quote.span
        return cls(quote.passage.document_id, quote.passage.version, start, end, quote.text)


@dataclass(frozen=True)
class Citation:
    """A quote that was found in the stored text; `id` names its permalink, `sha256` is that of the text in its span.

    `support`: how it was checked that it bears out what cites it (`domain.support.Check`); `score` 0 to 1.
    """

    quote: Quote
    id: str
    sha256: str = ""
    support: str = ""
    score: float = 0.0


@dataclass(frozen=True)
class Annotation:
    """A citation of the answer's code points `start` to `end` (exclusive): the cited sentence with its markers."""

    start: int
    end: int
    number: int
    citation: Citation
