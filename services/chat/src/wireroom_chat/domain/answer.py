"""An answer in the making: text with verified citations, and what is known of it at the end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from wireroom_chat.domain.passages import Annotation, Citation
from wireroom_chat.domain.source_terms import ANY, SourceTerms


class AnswerMode(StrEnum):
    """How an answer came about."""

    GENERATED = "generated"
    EXTRACTIVE = "extractive"
    ABSTAINED = "abstained"


class Retrieved(StrEnum):
    """Whether all the sources that were asked for were looked through."""

    COMPLETE = ""
    # Documents or news could not be searched: the answer rests on the other kind.
    PARTIAL = "partial"
    # None could: the answer rests on no source.
    FAILED = "failed"


class Degrade(StrEnum):
    """When quotes from the sources stand in for an answer that no provider could write or no budget pays for."""

    NEVER = "never"
    # Only for requests that asked for sources anyway.
    GROUNDED = "grounded"
    ALWAYS = "always"


@dataclass(frozen=True)
class Piece:
    """Text that may be shown now: a sentence and, if cited, its markers' citations by number.

    `cited` is the part of the text that the annotations cover, relative to the piece.
    """

    text: str
    cited: tuple[int, int] = (0, 0)
    citations: tuple[tuple[int, Citation], ...] = ()
    # Said without support by its source, and marked so in the text.
    flagged: bool = False


@dataclass(frozen=True)
class Ending:
    """What is known at the end. `missing`: what was asked for and stands in no source."""

    finish_reason: str = "stop"
    missing: tuple[str, ...] = ()


@dataclass(frozen=True)
class Searched:
    """What came of the search before the answer. `sources`: the ids of the passages in the prompt, in the order of their numbers."""

    retrieval: Retrieved = Retrieved.COMPLETE
    sources: tuple[str, ...] = ()
    # What another process has shown of the answer before.
    released: tuple[Piece, ...] = ()
    # Of the passages that the answer may come from.
    terms: SourceTerms = ANY


@dataclass(frozen=True)
class Begun:
    """What another process has shown of an answer, piece by piece, and the ids of the passages in its prompt, in order."""

    pieces: tuple[str, ...]
    sources: tuple[str, ...]


@dataclass(frozen=True)
class ToolEvent:
    """What became of a tool. `status`: "called", then "completed", "failed" or "refused"; "suggested" for one that only the text names."""

    id: str
    name: str
    status: str
    arguments: Mapping[str, Any] | None = None
    result: Mapping[str, Any] | None = None
    code: str = ""
    detail: str = ""

    def members(self) -> dict[str, Any]:
        """As clients of the native surface get it."""
        members = {"id": self.id, "name": self.name, "status": self.status, "arguments": self.arguments, "result": self.result}
        members |= {"code": self.code or None, "detail": self.detail or None}
        return {key: value for key, value in members.items() if value is not None}


@dataclass
class AnswerText:
    """The text so far, and the annotations in code points of the final text."""

    parts: list[str] = field(default_factory=list)
    length: int = 0
    annotations: list[Annotation] = field(default_factory=list)
    # The flagged pieces, in code points.
    flags: list[tuple[int, int]] = field(default_factory=list)

    def add(self, piece: Piece) -> None:
        """Append a piece."""
        for number, citation in piece.citations:
            self.annotations.append(Annotation(self.length + piece.cited[0], self.length + piece.cited[1], number, citation))
        if piece.flagged:
            self.flags.append((self.length, self.length + len(piece.text.rstrip())))
        self.parts.append(piece.text)
        self.length += len(piece.text)

    @property
    def text(self) -> str:
        """The whole text."""
        return "".join(self.parts)
