"""Passages and proofs of quotes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from wireroom_chat.domain.passages import Citation, Passage, Quote, Span
from wireroom_chat.domain.request import Grounding


class TextVectors(Protocol):
    """The installation's own embedding model."""

    async def vectors(self, texts: Sequence[str]) -> list[tuple[Sequence[float], int]]:
        """Unit vector and tokens of each text, in order; a WireroomError when there are none to be had."""


class Retrieval(Protocol):
    """Searches the caller's sources and checks quotes against the stored texts."""

    async def retrieve(self, query: str, grounding: Grounding) -> list[Passage]:
        """The best passages, best first, at most `grounding.top_k`."""

    async def verify(self, quotes: Sequence[Quote]) -> list[Citation | None]:
        """One entry per quote, in order: None where the quote does not stand in the stored text."""

    async def stand(self, spans: Sequence[Span]) -> bool:
        """Whether each span still stands in the stored text, and the caller may read it."""
