"""The numbered pieces of a streamed answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Self

from wireroom_chat.domain.answer import AnswerMode
from wireroom_common.errors import ErrorKind, WireroomError

COMPLETED, FAILED, CANCELLED = "completed", "failed", "cancelled"


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
    # "partial" or "failed" where sources could not be searched.
    retrieval: str = ""
    # `SourceTerms.written` of what the answer may come from, as far as it is known.
    source_terms: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True)
class End:
    """How a generation ended; always the last frame. `error` members only of failed ones."""

    status: str
    error_kind: str = ""
    error_code: str = ""
    error_detail: str = ""
    retry_after: float = 0.0

    @classmethod
    def of(cls, error: BaseException) -> Self:
        """The end that an exception makes; one that nobody foresaw says nothing about itself."""
        if isinstance(error, WireroomError):
            return cls(FAILED, error.kind.value, error.code, error.detail, error.retry_after)
        return cls(FAILED, ErrorKind.INTERNAL.value, "internal", "An internal error occurred.")

    def error(self) -> WireroomError | None:
        """The error to raise where a stream ends by exception; None for one that completed."""
        if self.status == COMPLETED:
            return None
        if self.status == CANCELLED:
            return WireroomError(ErrorKind.CONFLICT, "stream_cancelled", "The answer was cancelled.")
        return WireroomError(
            ErrorKind(self.error_kind or "internal"), self.error_code, self.error_detail, retry_after=self.retry_after
        )


class Frame(NamedTuple):
    """One piece of a streamed answer; bytes are one OpenAI chunk as JSON. `seq` counts from 1 without gaps."""

    seq: int
    part: Info | bytes | End
