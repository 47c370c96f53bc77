"""Going on with an answer that another model began: when it is possible, what is asked, and how the seam is closed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

CONTINUE = (
    "Your answer above was cut off. Write only what comes after its last character, without repeating any of it"
    " and without any introduction or remark."
)
# Text of a new answer that merely happens to begin like the end of the old one is not a repetition.
_MIN_OVERLAP = 8
_MAX_OVERLAP = 400


def can_continue(body: Mapping[str, Any]) -> bool:
    """Whether an answer to this request can be taken over by another model after its first token.

    Not tool calls, several choices, log probabilities or structured output: their pieces do not join.
    """
    response_format = body.get("response_format")
    return not (
        body.get("tools")
        or body.get("functions")
        or (body.get("n") or 1) != 1
        or body.get("logprobs")
        or (isinstance(response_format, dict) and response_format.get("type") not in (None, "text"))
    )


def continuation_body(body: Mapping[str, Any], written: str, tokens_written: int, *, prefill: bool) -> dict[str, Any]:
    """The request that asks for the rest of an answer of which `written` exists.

    `prefill`: the provider goes on with a last message of the assistant by itself; others are told in words.
    """
    messages: Sequence[Mapping[str, Any]] = body["messages"]
    more: list[Mapping[str, Any]] = [{"role": "assistant", "content": written}]
    if not prefill:
        more.append({"role": "user", "content": CONTINUE})
    asked = {**body, "messages": [*messages, *more]}
    for member in ("max_tokens", "max_completion_tokens"):
        limit = asked.get(member)
        if isinstance(limit, int) and not isinstance(limit, bool):
            asked[member] = max(1, limit - tokens_written)
    return asked


class Seam:
    """Takes the beginning of a continuation and gives it out without what it repeats of the text before it.

    Holds text back only as long as it may still turn out to be a repetition: of the end of the text, or of all of it from its start.
    """

    def __init__(self, written: str) -> None:
        self._written = written
        self._tail = written[-_MAX_OVERLAP:]
        self._held = ""
        self._closed = not written

    @property
    def closed(self) -> bool:
        """Whether everything from here on is new."""
        return self._closed

    def feed(self, text: str) -> str:
        """What of the text so far is known to be new."""
        if self._closed:
            return text
        self._held += text
        if self._may_repeat():
            return ""
        return self.rest()

    def rest(self) -> str:
        """What was held back, at the end of the continuation or when the seam closes."""
        if self._closed:
            return ""
        self._closed = True
        held, self._held = self._held, ""
        if len(self._written) >= _MIN_OVERLAP and held.startswith(self._written):
            return held[len(self._written) :]
        for length in range(min(len(self._tail), len(held)), _MIN_OVERLAP - 1, -1):
            if self._tail.endswith(held[:length]):
                return held[length:]
        return held

    def _may_repeat(self) -> bool:
        held = self._held
        if len(held) < len(self._written) and self._written.startswith(held):
            return True
        # Some end of the text, longer than what is held, begins with what is held.
        start = self._tail.find(held)
        return start >= 0 and start + len(held) < len(self._tail)
