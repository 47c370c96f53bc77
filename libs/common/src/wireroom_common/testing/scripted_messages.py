"""The words of Anthropic's Messages API for the scripted provider: messages and stream events."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

_REASONS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use", "content_filter": "refusal"}


def message(
    model: str, text: str, calls: Sequence[Mapping[str, Any]], finish_reason: str, tokens: tuple[int, int]
) -> dict[str, Any]:
    """A whole message. `calls` are tool calls as OpenAI writes them, `tokens` those of the prompt and of the answer."""
    content: list[dict[str, Any]] = [{"type": "text", "text": text}] if text and not calls else []
    content += [
        {
            "type": "tool_use",
            "id": call["id"],
            "name": call["function"]["name"],
            "input": json.loads(call["function"]["arguments"]),
        }
        for call in calls
    ]
    return {
        "id": "msg_scripted",
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": content,
        "stop_reason": _REASONS.get(finish_reason, "end_turn"),
        "stop_sequence": None,
        "usage": {"input_tokens": tokens[0], "output_tokens": tokens[1]},
    }


def opening(model: str, prompt_tokens: int) -> bytes:
    """The first events of a stream."""
    begun = {**message(model, "", (), "stop", (prompt_tokens, 1)), "stop_reason": None}
    return event("message_start", message=begun) + event("ping")


def text_start() -> bytes:
    """A block of text begins."""
    return event("content_block_start", index=0, content_block={"type": "text", "text": ""})


def text_delta(text: str) -> bytes:
    """A piece of it."""
    return event("content_block_delta", index=0, delta={"type": "text_delta", "text": text})


def text_stop() -> bytes:
    """It ends."""
    return event("content_block_stop", index=0)


def tool_blocks(calls: Sequence[Mapping[str, Any]]) -> bytes:
    """Tool calls, each in a block of its own, the input in two pieces."""
    written = b""
    for index, call in enumerate(calls):
        arguments = call["function"]["arguments"]
        half = len(arguments) // 2
        block = {"type": "tool_use", "id": call["id"], "name": call["function"]["name"], "input": {}}
        written += event("content_block_start", index=index, content_block=block)
        for piece in (arguments[:half], arguments[half:]):
            written += event("content_block_delta", index=index, delta={"type": "input_json_delta", "partial_json": piece})
        written += event("content_block_stop", index=index)
    return written


def closing(finish_reason: str, completion_tokens: int) -> bytes:
    """The last events."""
    delta = {"stop_reason": _REASONS.get(finish_reason, "end_turn"), "stop_sequence": None}
    return event("message_delta", delta=delta, usage={"output_tokens": completion_tokens}) + event("message_stop")


def event(kind: str, **members: Any) -> bytes:
    """One server-sent event."""
    return f"event: {kind}\ndata: ".encode() + json.dumps({"type": kind, **members}).encode() + b"\n\n"
