"""Providers that speak Anthropic's Messages API."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any

from wireroom_chat.adapters.providers.anthropic_mapping import ChunkMapper, completion, messages_request
from wireroom_chat.adapters.providers.http import ProviderHttp, object_of
from wireroom_chat.ports.providers import ChatProvider
from wireroom_common.clock import Clock
from wireroom_common.errors import ErrorKind, WireroomError

VERSION = "2023-06-01"
_PATH = "/messages"


class AnthropicProvider(ChatProvider):
    """One provider through one of its keys. `max_output_tokens` by model: the wire demands a maximum in each request."""

    def __init__(self, http: ProviderHttp, clock: Clock, max_output_tokens: Mapping[str, int]) -> None:
        self._http = http
        self._clock = clock
        self._max_output_tokens = max_output_tokens

    async def complete(self, body: Mapping[str, Any]) -> dict[str, Any]:
        mapped = messages_request(self._http.name, {**body, "stream": False}, self._limit(body))
        answer = await self._http.call(_PATH, mapped.body, model=_model(body))
        result = completion(answer, self._created(), mapped.stripped)
        if result is None:
            raise self._http.invalid()
        return result

    async def stream(self, body: Mapping[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
        mapped = messages_request(self._http.name, {**body, "stream": True}, self._limit(body))
        mapper = ChunkMapper(self._created(), mapped.stripped)
        async with aclosing(self._http.stream(_PATH, mapped.body, self._event, model=_model(body))) as batches:
            async for batch in batches:
                for event in batch:
                    try:
                        chunks = mapper.chunks(event)
                    except (ValueError, KeyError):
                        raise self._http.invalid() from None
                    for chunk in chunks:
                        yield chunk
        if not mapper.finished:
            raise self._http.interrupted()
        if (body.get("stream_options") or {}).get("include_usage"):
            yield mapper.usage()

    async def embed(self, body: Mapping[str, Any]) -> dict[str, Any]:
        del body
        raise WireroomError(
            ErrorKind.INVALID,
            "embeddings_unsupported",
            f"The provider '{self._http.name}' offers no embeddings; choose a model of another provider.",
        )

    async def models(self) -> list[str]:
        """The names of the models it offers; a call that costs nothing."""
        answer = await self._http.call("/models", None)
        data = answer.get("data")
        if not isinstance(data, list):
            raise self._http.invalid()
        return [item["id"] for item in data if isinstance(item, dict) and isinstance(item.get("id"), str)]

    def _event(self, data: bytes) -> dict[str, Any] | None:
        event = object_of(data)
        if event is None or not isinstance(event.get("type"), str):
            raise self._http.invalid()
        if event["type"] == "error":
            error = event.get("error")
            raise self._http.troubled(limited=isinstance(error, dict) and error.get("type") == "rate_limit_error")
        return None if event["type"] == "message_stop" else event

    def _limit(self, body: Mapping[str, Any]) -> int:
        return self._max_output_tokens.get(_model(body), 0)

    def _created(self) -> int:
        return int(self._clock.now().timestamp())


def _model(body: Mapping[str, Any]) -> str:
    model = body.get("model")
    return model if isinstance(model, str) else ""
