"""What may be on the wire, as strict JSON schemas: every member that OpenAI's own streams have, and no other."""

from __future__ import annotations

from typing import Any

_TEXT = {"type": "string"}
_NULLABLE_TEXT = {"type": ["string", "null"]}
_COUNT = {"type": "integer", "minimum": 0}


def closed(properties: dict[str, Any], *, optional: tuple[str, ...] = ()) -> dict[str, Any]:
    """An object with these members and no others."""
    return {
        "type": "object",
        "additionalProperties": False,
        "required": [name for name in properties if name not in optional],
        "properties": properties,
    }


_REASON = {"enum": [None, "stop", "length", "tool_calls", "content_filter"]}
_USAGE = closed({"prompt_tokens": _COUNT, "completion_tokens": _COUNT, "total_tokens": _COUNT})
_CALL = closed(
    {
        "index": _COUNT,
        "id": _TEXT,
        "type": {"const": "function"},
        "function": closed({"name": _TEXT, "arguments": _TEXT}, optional=("name", "arguments")),
    },
    optional=("id", "type"),
)
_CITATION = closed(
    {
        "type": {"const": "url_citation"},
        "url_citation": closed({"url": _TEXT, "title": _TEXT, "start_index": _COUNT, "end_index": _COUNT}),
    }
)
_TOKEN = {"token": _TEXT, "logprob": {"type": "number"}, "bytes": {"type": ["array", "null"], "items": _COUNT}}
_LOGPROBS = {
    "anyOf": [
        {"type": "null"},
        closed(
            {
                "content": {
                    "type": "array",
                    "items": closed({**_TOKEN, "top_logprobs": {"type": "array", "items": closed(_TOKEN)}}),
                },
                "refusal": {"type": "null"},
            }
        ),
    ]
}
_DELTA = closed(
    {
        "role": {"const": "assistant"},
        "content": _NULLABLE_TEXT,
        "refusal": _NULLABLE_TEXT,
        "tool_calls": {"type": "array", "items": _CALL},
        "annotations": {"type": "array", "items": _CITATION},
    },
    optional=("role", "content", "refusal", "tool_calls", "annotations"),
)
_HEAD = {"id": {"type": "string", "pattern": "^chatcmpl-[0-9a-f]{32}$"}, "created": _COUNT, "model": _TEXT}


def chat_chunk(*, with_usage: bool) -> dict[str, Any]:
    """A chunk of a chat completion. The member `usage` is there exactly when the client has asked for it."""
    choice = closed({"index": _COUNT, "delta": _DELTA, "logprobs": _LOGPROBS, "finish_reason": _REASON})
    usage = {"usage": {"anyOf": [{"type": "null"}, _USAGE]}} if with_usage else {}
    return closed(
        {
            **_HEAD,
            "object": {"const": "chat.completion.chunk"},
            "system_fingerprint": _NULLABLE_TEXT,
            "choices": {"type": "array", "items": choice, **({} if with_usage else {"minItems": 1})},
            **usage,
        },
        optional=("system_fingerprint",),
    )


def text_chunk(*, with_usage: bool) -> dict[str, Any]:
    """A chunk of a text completion."""
    choice = closed({"text": _TEXT, "index": _COUNT, "logprobs": {"type": "null"}, "finish_reason": _REASON})
    usage = {"usage": {"anyOf": [{"type": "null"}, _USAGE]}} if with_usage else {}
    return closed(
        {
            "id": {"type": "string", "pattern": "^cmpl-[0-9a-f]{32}$"},
            "object": {"const": "text_completion"},
            "created": _COUNT,
            "model": _TEXT,
            "choices": {"type": "array", "items": choice},
            **usage,
        }
    )


ERROR = closed({"error": closed({"message": _TEXT, "type": _TEXT, "param": _NULLABLE_TEXT, "code": _TEXT})})
