"""Our own count of tokens, for calls of which the provider does not tell: everything that a model reads and writes.

Words count as by `unicode-words-v1`. A run of characters longer than 12 bytes is no word to a tokenizer (Chinese and Japanese text, base64,
long blanks): it counts a token for each 4 bytes of UTF-8.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import orjson

from wireroom_chat.domain.pricing import media_tokens, without_media
from wireroom_chat.domain.terms import count_tokens

_LONGEST_WORD = 12
_BYTES_PER_TOKEN = 4
_LONG_ASCII = re.compile(r"\w{13,}")
# No character has more than four bytes.
_LONG = re.compile(r"\w{4,}")
_BLANK = re.compile(r"\s{13,}")
# Members of a request that are JSON to us, and text to the model.
_DEFINITIONS = ("tools", "functions", "response_format", "prediction")
# Members of messages and of their parts that say what something is, not what is in it; long ones do not.
_LABELS = frozenset({"role", "type", "id", "tool_call_id", "detail", "format"})
_LONGEST_LABEL = 64
_PLAIN = ("content", "refusal")
# The same text under the two names that providers have for it; some send both.
_REASONING = ("reasoning_content", "reasoning")


def text_tokens(text: str) -> int:
    """Tokens of a text."""
    words = count_tokens(text)
    if text.isascii():
        if len(text) <= _LONGEST_WORD:
            return words
        long = _LONG_ASCII.findall(text)
    else:
        long = _LONG.findall(text)
    # A run of word characters is one token already.
    return words + sum(_beyond(run, 1) for run in long) + sum(_beyond(run, 0) for run in _BLANK.findall(text))


def request_tokens(body: Mapping[str, Any]) -> int:
    """Tokens of a request: messages with names, calls and results of tools, media by the estimate of the reservation, definitions."""
    messages: Sequence[Mapping[str, Any]] = body.get("messages") or ()
    counted = sum(text_tokens(text) for message in messages for text in _texts_in(without_media(message)))
    definitions = sum(
        -(-len(orjson.dumps(value)) // _BYTES_PER_TOKEN) for name in _DEFINITIONS if (value := body.get(name)) is not None
    )
    return counted + definitions + media_tokens(messages)


def answer_texts(part: Mapping[str, Any]) -> list[str]:
    """Every text that a model wrote, of a message or of a stream's delta: also reasoning, refusals, calls of tools, spoken words."""
    texts = [value for name in _PLAIN if isinstance(value := part.get(name), str) and value]
    if len(part) - len(texts) <= (1 if "role" in part else 0):
        # Most deltas of a stream.
        return texts
    for item in part["content"] if isinstance(part.get("content"), list) else ():
        texts.extend(_texts_in(item))
    texts.extend([value for name in _REASONING if isinstance(value := part.get(name), str) and value][:1])
    calls = part.get("tool_calls")
    for call in (*(calls if isinstance(calls, list) else ()), {"function": part.get("function_call")}):
        texts.extend(_texts_in(call))
    audio = part.get("audio")
    if isinstance(audio, Mapping) and isinstance(transcript := audio.get("transcript"), str):
        texts.append(transcript)
    return texts


def answer_tokens(part: Mapping[str, Any]) -> int:
    """Tokens of a message or of a delta."""
    return sum(map(text_tokens, answer_texts(part)))


def _beyond(run: str, counted: int) -> int:
    size = len(run) if run.isascii() else len(run.encode("utf-8", "replace"))
    return -(-size // _BYTES_PER_TOKEN) - counted if size > _LONGEST_WORD else 0


def _texts_in(value: Any) -> Iterator[str]:
    """All texts in it but labels; without recursion, because it may be nested deeply."""
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, str):
            yield item
        elif isinstance(item, Mapping):
            waiting.extend(inner for name, inner in item.items() if not _is_label(name, inner))
        elif isinstance(item, (list, tuple)):
            waiting.extend(item)


def _is_label(name: str, value: Any) -> bool:
    return name in _LABELS and isinstance(value, str) and len(value) <= _LONGEST_LABEL
