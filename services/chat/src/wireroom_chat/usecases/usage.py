"""Token counts: the provider's where it gives them, our own otherwise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from wireroom_chat.domain.request import text_of
from wireroom_chat.domain.terms import count_tokens

_MAX_TOKENS = 2**31 - 1


def reported_tokens(usage: Any) -> tuple[int, int] | None:
    """Prompt and completion tokens of a `usage` object; None when it is not one."""
    if not isinstance(usage, dict):
        return None
    tokens_in, tokens_out = _count(usage.get("prompt_tokens")), _count(usage.get("completion_tokens", 0))
    if tokens_in is None or tokens_out is None:
        return None
    return tokens_in, tokens_out


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MAX_TOKENS else None


def prompt_tokens(messages: Sequence[Mapping[str, Any]]) -> int:
    """The text of all messages by the tokenizer `unicode-words-v1`."""
    return sum(count_tokens(text_of(message.get("content"))) for message in messages)
