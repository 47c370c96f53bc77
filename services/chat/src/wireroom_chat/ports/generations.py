"""Completions, what they used, and who keeps their answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol
from uuid import UUID

from wireroom_chat.domain.source_terms import ANY, SourceTerms


@dataclass(frozen=True)
class Origin:
    """What a generation is for: the kind names its sink ("openai": nobody else waits for the answer), the id is the sink's."""

    kind: str = "openai"
    id: str = ""


@dataclass(frozen=True)
class Generation:
    """One completion, as its row knows it from the start. `key_id`: the API key it is made with, if any."""

    id: UUID
    tenant_id: UUID
    user_id: UUID
    key_id: UUID | None
    completion_id: str
    model: str
    started_at: datetime
    origin: Origin = field(default_factory=Origin)


@dataclass(frozen=True)
class Checkpoint:
    """The first call of a provider as it is about to be made: what is booked of a completion that is left by a process that died."""

    provider: str
    model: str
    key: str
    tokens_in: int
    micros: int
    price_version: str


@dataclass(frozen=True)
class UsagePart:
    """What one call of a provider used: a generation has several after retries and failovers.

    `reported`: the token counts are the provider's own. `counted_out` is our count of what arrived. Micro-units of the currency.
    """

    number: int
    provider: str
    model: str
    key: str
    tokens_in: int
    tokens_out: int
    reported: bool
    counted_out: int
    micros: int
    price_version: str
    # "completed", "failed" or "cancelled"
    status: str
    error_code: str
    first_token_milliseconds: int


@dataclass(frozen=True)
class Settlement:
    """How a completion ended. `status` is "completed", "failed" or "cancelled". Tokens and micro-units are sums over the parts."""

    status: str
    answer_mode: str
    error_code: str
    parts: tuple[UsagePart, ...]
    tokens_in: int
    tokens_out: int
    micros: int
    citations: int
    # "hit", "semantic", "miss", or empty where the cache has no part
    cache: str
    first_token_milliseconds: int
    milliseconds: int
    finished_at: datetime
    # "partial" or "failed" where sources could not be searched
    retrieval: str = ""

    @property
    def path(self) -> tuple[str, ...]:
        """The models tried, in order."""
        return tuple(f"{part.provider}/{part.model}" for part in self.parts)

    @property
    def provider(self) -> str:
        """Who answered in the end; "wireroom" when nobody else was asked."""
        return self.parts[-1].provider if self.parts else "wireroom"


class GenerationLedger(Protocol):
    """A row per completion; its end, its usage and the events that tell of it are one transaction."""

    def binds(self, generation: Generation) -> bool:
        """Whether a budget may bind who pays for it; no I/O, at most seconds old."""

    async def start(self, generation: Generation, checkpoint: Checkpoint | None = None) -> None:
        """Write the row of a running completion."""

    async def reserve(self, generation: Generation, micros: int) -> int:
        """Add to what is set aside for it; returns what is left of the tightest budget after that.

        RATE_LIMITED `insufficient_quota`, with nothing set aside, when a cap would be passed.
        """

    async def settle(self, generation: Generation, settlement: Settlement) -> None:
        """Close the row, book its parts, release what was set aside, emit the events; nothing when the row is already closed."""


class Ownership(Protocol):
    """Which generations of this process are still this process's to settle."""

    async def owns(self, generation: Generation) -> bool:
        """False when another replica goes on with it: that one settles it."""


@dataclass(frozen=True)
class Outcome:
    """The whole answer at its end. `message` is that of the completion object (with tool calls), None where nothing was answered."""

    status: str
    text: str
    message: Mapping[str, Any] | None
    annotations: Sequence[Mapping[str, Any]]
    finish_reason: str
    answer_mode: str
    path: tuple[str, ...]
    tokens_in: int
    tokens_out: int
    micros: int
    error_code: str
    # Of the sources that it may come from: whoever is told the answer later must be allowed by them.
    terms: SourceTerms = ANY


class AnswerSink(Protocol):
    """Somebody who keeps answers: a session, a stored response, the cache."""

    async def finished(self, generation: Generation, outcome: Outcome) -> None:
        """Called once the answer has ended, before it is settled; perhaps again after a crash: it must not matter."""
