"""What the use cases need from outside."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol
from uuid import UUID

from wireroom_chat.domain.passages import Citation, Passage, Quote
from wireroom_chat.domain.request import Grounding


class Retrieval(Protocol):
    """Searches the caller's sources and checks quotes against the stored texts."""

    async def retrieve(self, query: str, grounding: Grounding) -> list[Passage]:
        """The best passages, best first, at most `grounding.top_k`."""

    async def verify(self, quotes: Sequence[Quote]) -> list[Citation | None]:
        """One entry per quote, in order: None where the quote does not stand in the stored text."""


class ChatProvider(Protocol):
    """A provider that speaks OpenAI's wire format. Failures are WireroomErrors that name the provider, never its words."""

    async def complete(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """The chat completion object; `choices` is a list that is not empty."""

    def stream(self, body: Mapping[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
        """The chunks in order; each has a `choices` list. Closing the generator closes the connection at once."""


@dataclass(frozen=True)
class Generation:
    """One completion, as its row knows it from the start."""

    id: UUID
    tenant_id: UUID
    user_id: UUID
    completion_id: str
    model: str
    provider: str
    started_at: datetime


@dataclass(frozen=True)
class Settlement:
    """How a completion ended. `status` is "completed", "failed" or "cancelled"."""

    status: str
    answer_mode: str
    error_code: str
    tokens_in: int
    tokens_out: int
    citations: int
    first_token_milliseconds: int
    milliseconds: int
    finished_at: datetime


class GenerationLedger(Protocol):
    """A row per completion; its end and the event that tells of it are one transaction."""

    async def start(self, generation: Generation) -> None:
        """Write the row of a running completion."""

    async def settle(self, generation: Generation, settlement: Settlement) -> None:
        """Close the row and emit the event; does nothing when the row is already closed."""
