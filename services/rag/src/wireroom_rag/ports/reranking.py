"""A model that reads query and passage together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class Reranker(Protocol):
    """Scores passages by themselves, not by what other passages there are."""

    async def scores(self, query: str, passages: Sequence[str]) -> Sequence[float]:
        """One score for each passage, higher is better. WireroomError UNAVAILABLE or DEADLINE when the model does not answer."""
