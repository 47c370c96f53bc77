"""Providers that speak OpenAI's wire format: chat completions and embeddings."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any

from wireroom_chat.adapters.providers.http import ProviderHttp, object_of
from wireroom_chat.ports.providers import ChatProvider
from wireroom_common.errors import WireroomError

_DONE = b"[DONE]"


class OpenAiProvider(ChatProvider):
    """One provider through one of its keys. `stream_options`: whether it takes that member of requests; None: it is found out.

    `own_house`: it is OpenAI itself, whose newest models know the length of an answer under its new name only.
    """

    def __init__(self, http: ProviderHttp, *, stream_options: bool | None = None, own_house: bool = False) -> None:
        self._http = http
        self._own_house = own_house
        self._stream_options = stream_options

    async def complete(self, body: Mapping[str, Any]) -> dict[str, Any]:
        asked = self._spelled({key: value for key, value in body.items() if key not in ("stream", "stream_options")})
        answer = await self._http.call("/chat/completions", asked, model=_model(body))
        choices = answer.get("choices")
        if not isinstance(choices, list) or not choices or not all(_is_choice(item, "message") for item in choices):
            raise self._told(answer)
        return answer

    async def stream(self, body: Mapping[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
        async with aclosing(self.batches(body)) as batches:
            async for batch in batches:
                for chunk in batch:
                    yield chunk

    async def batches(self, body: Mapping[str, Any]) -> AsyncGenerator[list[dict[str, Any]], None]:
        asked = self._spelled(dict(body))
        if self._stream_options is False:
            asked.pop("stream_options", None)
        told = "stream_options" in asked
        begun = False
        try:
            async with aclosing(self._chunks(asked)) as batches:
                async for batch in batches:
                    begun = True
                    self._stream_options = told or self._stream_options
                    yield batch
        except WireroomError as error:
            # Some refuse this member only: asked once more without it, it is known from then on.
            if begun or not told or self._stream_options or error.code != "provider_rejected_request":
                raise
        else:
            return
        del asked["stream_options"]
        async with aclosing(self._chunks(asked)) as batches:
            async for batch in batches:
                self._stream_options = False
                yield batch

    def _spelled(self, body: dict[str, Any]) -> dict[str, Any]:
        if self._own_house and body.get("max_tokens") is not None:
            body.setdefault("max_completion_tokens", body.pop("max_tokens"))
        return body

    async def embed(self, body: Mapping[str, Any]) -> dict[str, Any]:
        answer = await self._http.call("/embeddings", body, model=_model(body))
        data = answer.get("data")
        if not isinstance(data, list) or not data or not all(isinstance(item, dict) and item.get("embedding") for item in data):
            raise self._told(answer)
        return answer

    async def models(self) -> list[str]:
        """The names of the models it offers; a call that costs nothing."""
        answer = await self._http.call("/models", None)
        data = answer.get("data")
        if not isinstance(data, list):
            raise self._http.invalid()
        return [item["id"] for item in data if isinstance(item, dict) and isinstance(item.get("id"), str)]

    async def _chunks(self, body: Mapping[str, Any]) -> AsyncGenerator[list[dict[str, Any]], None]:
        progress = _Progress()
        async with aclosing(self._http.stream("/chat/completions", body, self._chunk, model=_model(body))) as batches:
            async for batch in batches:
                for chunk in batch:
                    progress.note(chunk["choices"])
                yield batch
        if not progress.finished:
            raise self._http.interrupted()

    def _chunk(self, data: bytes) -> dict[str, Any] | None:
        if data == _DONE:
            return None
        chunk = object_of(data)
        if chunk is None:
            raise self._http.invalid()
        self._unwrap(chunk)
        choices = chunk.get("choices")
        if chunk.get("error"):
            raise self._told(chunk)
        if choices is None and isinstance(chunk.get("usage"), dict):
            choices = chunk["choices"] = []
        if not isinstance(choices, list):
            raise self._http.invalid()
        for choice in choices:
            if not _is_choice(choice, "delta"):
                raise self._http.invalid()
        return chunk

    def _unwrap(self, chunk: dict[str, Any]) -> None:
        """Groq puts its figures into a member of its own, and names an error of the running answer there."""
        own = chunk.pop("x_groq", None)
        if not isinstance(own, dict):
            return
        if own.get("error"):
            raise self._http.troubled()
        if isinstance(own.get("usage"), dict) and not chunk.get("usage"):
            chunk["usage"] = own["usage"]

    def _told(self, answer: Mapping[str, Any]) -> WireroomError:
        """An answer with status 200 that is none; OpenRouter passes on errors of those behind it that way."""
        error = answer.get("error")
        if not isinstance(error, dict):
            return self._http.troubled() if error else self._http.invalid()
        return self._http.troubled(limited=error.get("code") in (429, "429", "rate_limit_exceeded"))


class _Progress:
    """Which choices have begun and not said why they ended."""

    def __init__(self) -> None:
        self._open: set[int] = set()
        self._ended = False

    def note(self, choices: list[dict[str, Any]]) -> None:
        for choice in choices:
            index = choice.get("index")
            key = index if isinstance(index, int) else 0
            if choice.get("finish_reason"):
                self._open.discard(key)
                self._ended = True
            elif key not in self._open:
                self._open.add(key)

    @property
    def finished(self) -> bool:
        return self._ended and not self._open


def _is_choice(value: Any, member: str) -> bool:
    return isinstance(value, dict) and isinstance(value.get(member), dict)


def _model(body: Mapping[str, Any]) -> str:
    model = body.get("model")
    return model if isinstance(model, str) else ""
