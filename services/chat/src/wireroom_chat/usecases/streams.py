"""Streamed generations: numbered frames."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from wireroom_chat.domain.answer import AnswerMode
from wireroom_chat.ports import Generation
from wireroom_common.principal import Principal


@dataclass(frozen=True)
class Info:
    """What is known of an answer when it begins; again, with another provider, after a failover."""

    completion_id: str
    model: str
    answer_mode: AnswerMode
    provider: str
    path: tuple[str, ...] = ()
    cache: str = ""
    cost_micros: int = 0
    budget_remaining_micros: int | None = None


@dataclass(frozen=True)
class End:
    """How a generation ended; always the last frame. `error` members only of failed ones."""

    status: str
    error_kind: str = ""
    error_code: str = ""
    error_detail: str = ""
    retry_after: float = 0.0


@dataclass(frozen=True)
class Frame:
    """One piece of a streamed answer; bytes are one OpenAI chunk as JSON. `seq` counts from 1 without gaps."""

    seq: int
    part: Info | bytes | End


@dataclass(frozen=True)
class Opening:
    """How a stream is to be treated. `grace`: seconds it lives on without a caller. `checkpoint`: what another process needs to go on."""

    principal: Principal
    generation: Generation
    grace: float
    checkpoint: Mapping[str, Any]


class Streams:
    """Delivers streamed generations."""

    async def deliver(self, opening: Opening, produce: AsyncGenerator[Info | bytes, None]) -> AsyncGenerator[Frame, None]:
        """The frames; errors of `produce` pass through before the first frame and end the stream with a failed `End` after it."""
        del opening
        seq = 0
        async with aclosing(produce) as parts:
            async for part in parts:
                seq += 1
                yield Frame(seq, part)
        yield Frame(seq + 1, End("completed"))
