"""Embedding requests and answers in OpenAI's shape."""

from __future__ import annotations

import base64
import binascii
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from wireroom_chat.domain.members import Members, json_object

MAX_INPUTS = 2048
_MAX_TOKENS_OF_ONE = 32_768
_MAX_TOKENS = 300_000
_MAX_DIMENSIONS = 16_384
_MAX_TOKEN = 2**31 - 1
_FLOAT = struct.Struct("<f")

Input = str | list[int]


@dataclass(frozen=True)
class EmbeddingRequest:
    """A checked request. `asked`: what goes to a provider beside model and input."""

    model: str
    inputs: tuple[Input, ...]
    base64: bool
    dimensions: int | None
    asked: Mapping[str, Any]

    def texts(self) -> list[str] | None:
        """The inputs, if all of them are texts: a model of another vocabulary cannot read tokens."""
        texts = [item for item in self.inputs if isinstance(item, str)]
        return texts if len(texts) == len(self.inputs) else None

    def prompt(self) -> list[dict[str, Any]]:
        """The inputs as messages, for those who count what is asked."""
        return [{"role": "user", "content": item if isinstance(item, str) else " ".join(map(str, item))} for item in self.inputs]


def parse_embedding_request(body: bytes) -> EmbeddingRequest:
    """Check the body; INVALID names every offending member."""
    raw = json_object(body)
    members = Members(raw)
    model = members.required_text("model", "The name of an embedding model is required.")
    inputs = _inputs(members)
    encoding = members.choice("encoding_format", ("float", "base64")) or "float"
    dimensions = members.integer("dimensions", 1, _MAX_DIMENSIONS)
    user = members.text("user", longest=512)
    members.check()
    asked: dict[str, Any] = {"encoding_format": encoding}
    if dimensions is not None:
        asked["dimensions"] = dimensions
    if user is not None:
        asked["user"] = user
    return EmbeddingRequest(model, tuple(inputs), encoding == "base64", dimensions, asked)


def embedding_list(request: EmbeddingRequest, data: Sequence[Mapping[str, Any]], tokens: int) -> dict[str, Any]:
    """The answer: vectors in the order of the inputs and in the encoding that was asked for; ValueError if they are not there."""
    by_index = {item.get("index"): item.get("embedding") for item in data}
    if sorted(by_index, key=str) != sorted(range(len(request.inputs)), key=str):
        msg = "not one vector for each input"
        raise ValueError(msg)
    vectors = [_encoded(by_index[index], as_base64=request.base64) for index in range(len(request.inputs))]
    return {
        "object": "list",
        "data": [{"object": "embedding", "index": index, "embedding": vector} for index, vector in enumerate(vectors)],
        "model": request.model,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }


def _encoded(vector: Any, *, as_base64: bool) -> str | list[float]:
    """Providers answer in the encoding they like."""
    if isinstance(vector, str):
        try:
            raw = base64.b64decode(vector, validate=True)
        except binascii.Error:
            msg = "a vector is not base64"
            raise ValueError(msg) from None
        if not raw or len(raw) % _FLOAT.size:
            msg = "a vector is not a row of 32-bit numbers"
            raise ValueError(msg)
        return vector if as_base64 else [number for (number,) in _FLOAT.iter_unpack(raw)]
    if not isinstance(vector, list) or not vector or not all(isinstance(number, (int, float)) for number in vector):
        msg = "a vector is not a list of numbers"
        raise ValueError(msg)
    if not as_base64:
        return vector
    try:
        return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
    except (struct.error, OverflowError):
        msg = "a vector has numbers beyond 32 bits"
        raise ValueError(msg) from None


def _inputs(members: Members) -> list[Input]:
    value = members.get("input")
    items: Any = [value] if isinstance(value, str) or _is_tokens(value) else value
    if not isinstance(items, list) or not items:
        members.refuse("input", "A text, a list of texts, or tokens are required.")
        return []
    if len(items) > MAX_INPUTS:
        members.refuse("input", f"At most {MAX_INPUTS} inputs are taken at a time.")
        return []
    total = 0
    for index, item in enumerate(items):
        if isinstance(item, str) and item:
            continue
        if not _is_tokens(item):
            members.refuse(f"input[{index}]", "Must be a text that is not empty, or a list of tokens.")
            break
        total += len(item)
        if len(item) > _MAX_TOKENS_OF_ONE or total > _MAX_TOKENS:
            members.refuse("input", f"At most {_MAX_TOKENS_OF_ONE} tokens in one input and {_MAX_TOKENS} in all are taken.")
            break
    return items


def _is_tokens(value: Any) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(token, int) and not isinstance(token, bool) and 0 <= token <= _MAX_TOKEN for token in value)
    )
