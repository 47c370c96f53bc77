"""Ungrounded models: the provider's answer as it comes, under our id and the name that was asked for."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import orjson

from wireroom_chat.domain.request import ChatRequest
from wireroom_chat.ports.providers import ChatProvider
from wireroom_chat.usecases.run import Run

_OURS = frozenset({"stream", "stream_options", "model"})


def _body(request: ChatRequest) -> dict[str, Any]:
    return {key: value for key, value in request.raw.items() if key not in _OURS}


async def forward(request: ChatRequest, provider: ChatProvider, run: Run) -> bytes:
    """The whole answer."""
    answer = await provider.complete(_body(request))
    answer["usage"] = run.usage()
    answer["id"] = run.completion_id
    answer["object"] = "chat.completion"
    answer.setdefault("created", run.created)
    answer["model"] = run.model
    choice = answer["choices"][0]
    run.message = choice["message"]
    run.finish_reason = choice.get("finish_reason") or "stop"
    if isinstance(run.message.get("content"), str):
        run.text = [run.message["content"]]
    return orjson.dumps(answer)


async def forward_stream(request: ChatRequest, provider: ChatProvider, run: Run) -> AsyncGenerator[list[bytes], None]:
    """The chunks, those together that are there at the same moment; usage only for clients that asked for it, once and at the end."""
    options = request.raw.get("stream_options") or {}
    body = {**_body(request), "stream_options": options}
    head = {"id": run.completion_id, "object": "chat.completion.chunk", "created": run.created, "model": run.model}
    include_usage, kept = request.include_usage, run.kept
    dumps = orjson.dumps
    async with aclosing(provider.batches(body)) as batches:
        async for batch in batches:
            for chunk in batch:
                chunk.update(head)
                if include_usage:
                    chunk["usage"] = None
                if kept:
                    _keep(chunk["choices"], run)
            yield [dumps(chunk) for chunk in batch]
    if include_usage:
        yield [dumps({**head, "choices": [], "usage": run.usage()})]


def _keep(choices: list[dict[str, Any]], run: Run) -> None:
    for choice in choices:
        if choice.get("index", 0) != 0:
            continue
        content = choice["delta"].get("content")
        if isinstance(content, str):
            run.text.append(content)
        run.finish_reason = choice.get("finish_reason") or run.finish_reason
