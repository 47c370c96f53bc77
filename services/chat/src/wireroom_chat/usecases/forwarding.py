"""Ungrounded models: the provider's answer as it comes, under our id and the name that was asked for."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import orjson

from wireroom_chat.domain.request import ChatRequest
from wireroom_chat.domain.terms import count_tokens
from wireroom_chat.domain.wire import usage_object
from wireroom_chat.ports import ChatProvider
from wireroom_chat.usecases.run import Run
from wireroom_chat.usecases.usage import prompt_tokens, reported_tokens


def _body(request: ChatRequest, model: str) -> dict[str, Any]:
    body = {key: value for key, value in request.raw.items() if key not in ("stream", "stream_options")}
    return {**body, "model": model}


def _written(message: dict[str, Any]) -> str:
    content = message.get("content")
    return content if isinstance(content, str) else ""


async def forward(request: ChatRequest, provider: ChatProvider, model: str, run: Run) -> bytes:
    """The whole answer."""
    answer = await provider.complete(_body(request, model))
    run.first_token()
    tokens = reported_tokens(answer.get("usage"))
    if tokens is None:
        text = "".join(_written(choice["message"]) for choice in answer["choices"])
        tokens = (prompt_tokens(request.messages), count_tokens(text))
        answer["usage"] = usage_object(*tokens)
    run.tokens_in, run.tokens_out = tokens
    answer["id"] = run.completion_id
    answer["object"] = "chat.completion"
    answer.setdefault("created", run.created)
    answer["model"] = run.model
    return orjson.dumps(answer)


async def forward_stream(request: ChatRequest, provider: ChatProvider, model: str, run: Run) -> AsyncGenerator[bytes, None]:
    """The chunks. Usage is always asked of the provider, and passed on (once, at the end) only to clients that asked for it."""
    options = {**(request.raw.get("stream_options") or {}), "include_usage": True}
    body = {**_body(request, model), "stream": True, "stream_options": options}
    completion_id, created, name, include_usage = run.completion_id, run.created, run.model, request.include_usage
    usage: dict[str, Any] | None = None
    dumps = orjson.dumps
    async with aclosing(provider.stream(body)) as chunks:
        async for chunk in chunks:
            found = chunk.get("usage")
            if found and reported_tokens(found) is not None:
                usage = found
                run.tokens_in, run.tokens_out = reported_tokens(found) or (0, 0)
            choices = chunk["choices"]
            if not choices:
                continue
            for choice in choices:
                text = choice["delta"].get("content")
                if text and usage is None and isinstance(text, str):
                    run.tokens_out += count_tokens(text)
            if include_usage:
                chunk["usage"] = None
            else:
                chunk.pop("usage", None)
            chunk["id"] = completion_id
            chunk["object"] = "chat.completion.chunk"
            chunk["created"] = created
            chunk["model"] = name
            run.first_token()
            yield dumps(chunk)
    if usage is None:
        run.tokens_in = prompt_tokens(request.messages)
    if include_usage:
        yield dumps(
            {
                "id": completion_id,
                "object": "chat.completion.chunk",
                "created": created,
                "model": name,
                "choices": [],
                "usage": usage or usage_object(run.tokens_in, run.tokens_out),
            }
        )
