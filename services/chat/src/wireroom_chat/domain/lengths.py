"""`max_tokens` and `stop` for answers that are put together here and not by a provider."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from wireroom_chat.domain.answer import Piece
from wireroom_chat.domain.members import Members
from wireroom_chat.domain.terms import count_tokens

MAX_STOPS = 16
_MAX_TOKENS = 2**31 - 1
_WORD = re.compile(r"\S+\s*|\s+")


@dataclass(frozen=True)
class Lengths:
    """Where an answer ends at the latest. `tokens` 0: no limit."""

    tokens: int = 0
    stops: tuple[str, ...] = ()

    @classmethod
    def of(cls, raw: Mapping[str, Any]) -> Lengths:
        """From a chat completion request; INVALID for members that are none."""
        members = Members(raw)
        limits = [members.integer(name, 1, _MAX_TOKENS) for name in ("max_tokens", "max_completion_tokens")]
        stop = raw.get("stop")
        stops = [stop] if isinstance(stop, str) else [] if stop is None else stop
        if not isinstance(stops, list) or len(stops) > MAX_STOPS or not all(isinstance(item, str) for item in stops):
            members.refuse("stop", f"Must be a text or a list of at most {MAX_STOPS} texts.")
        members.check()
        return cls(min((limit for limit in limits if limit), default=0), tuple(item for item in stops if item))

    def applied(self, pieces: Sequence[Piece]) -> tuple[list[Piece], str]:
        """The pieces that fit, and the finish reason.

        A cited piece is given whole or not at all: a cut quote would stand there without its citation.
        """
        kept, reason = list(pieces), "stop"
        if self.stops:
            kept = list(_before(kept, self._stop_position("".join(piece.text for piece in kept))))
        if self.tokens:
            fitting = list(_within(kept, self.tokens))
            if _length(fitting) < _length(kept):
                kept, reason = fitting, "length"
        return kept, reason

    def _stop_position(self, text: str) -> int:
        found = [position for position in (text.find(stop) for stop in self.stops) if position >= 0]
        return min(found, default=len(text))


def _before(pieces: Sequence[Piece], end: int) -> Iterator[Piece]:
    position = 0
    for piece in pieces:
        if position + len(piece.text) > end:
            if not piece.citations and end > position:
                yield Piece(piece.text[: end - position])
            return
        position += len(piece.text)
        yield piece


def _within(pieces: Sequence[Piece], tokens: int) -> Iterator[Piece]:
    left = tokens
    for piece in pieces:
        needed = count_tokens(piece.text)
        if needed > left:
            if not piece.citations and (text := _words(piece.text, left)):
                yield Piece(text)
            return
        left -= needed
        yield piece


def _words(text: str, tokens: int) -> str:
    kept: list[str] = []
    for word in _WORD.findall(text):
        tokens -= count_tokens(word)
        if tokens < 0:
            break
        kept.append(word)
    return "".join(kept).rstrip()


def _length(pieces: Sequence[Piece]) -> int:
    return sum(len(piece.text) for piece in pieces)
