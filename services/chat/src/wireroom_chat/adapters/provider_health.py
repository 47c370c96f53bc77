"""What is known of providers' health."""

from __future__ import annotations

from collections.abc import Sequence

from wireroom_chat.domain.providers import Candidate, Strategy
from wireroom_common.errors import WireroomError


class AlwaysHealthy:
    """Remembers nothing."""

    def order(self, candidates: Sequence[Candidate], strategy: Strategy) -> list[Candidate]:
        del strategy
        return list(candidates)

    def blocked_for(self, candidate: Candidate) -> float:
        del candidate
        return 0.0

    def succeeded(self, candidate: Candidate, *, first_token_seconds: float, tokens_out: int, seconds: float) -> None:
        """Remembers nothing."""

    def failed(self, candidate: Candidate, error: WireroomError) -> None:
        """Remembers nothing."""
