"""`POST /v1/chat/completions`: a plain ASGI endpoint, because every token passes through here."""

from __future__ import annotations

import time
from typing import Any

from starlette.types import Receive, Scope, Send

from wireroom_gateway.access import Body, Bucket, access
from wireroom_gateway.reattaching import chunk_stream
from wireroom_gateway.routes.answering import (
    Waiting,
    read_object,
    send_events,
    wants_stream,
)
from wireroom_gateway.routes.event_stream import frame
from wireroom_gateway.routes.openai.answers import ChunkEvents, described, send_answer
from wireroom_gateway.routes.openai.open_webui import HEADER, NAME, SourceEvents
from wireroom_protos.chat.v1 import chat_pb2, chat_pb2_grpc, conversation_pb2_grpc

PATH = "/v1/chat/completions"

# What the clients of OpenAI rely on; providers add members of their own.
_COMPLETION: dict[str, Any] = {
    "type": "object",
    "required": ["id", "object", "created", "model", "choices", "usage"],
    "properties": {
        "id": {"type": "string"},
        "object": {"const": "chat.completion"},
        "created": {"type": "integer"},
        "model": {"type": "string"},
        "choices": {
            "type": "array",
            "minItems": 1,
            "items": {"type": "object", "required": ["message"], "properties": {"message": {"type": "object"}}},
        },
        "usage": {"type": "object"},
    },
}
OPENAPI: dict[str, Any] = {
    PATH: {
        "post": described(
            "chat_completions",
            "Chat Completions",
            description="The OpenAI chat completion request. `grounding` may stand beside the standard members.",
            required=["model", "messages"],
            members={
                "model": {"type": "string"},
                "messages": {"type": "array", "items": {"type": "object"}},
                "stream": {"type": "boolean"},
                "grounding": {"type": "object"},
            },
            answer=_COMPLETION,
            streams=True,
        )
    }
}


@access("llm:invoke", bucket=Bucket.CHAT, body=Body.CHAT)
class ChatCompletions:
    """Hands the body on as it came, and the answer back. A client that goes away cancels the call."""

    def __init__(
        self,
        inference: chat_pb2_grpc.InferenceServiceAsyncStub,
        streams: conversation_pb2_grpc.StreamServiceAsyncStub,
        waiting: Waiting,
    ) -> None:
        self._inference = inference
        self._streams = streams
        self._waiting = waiting

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = time.perf_counter()
        body, request = await read_object(scope, receive)
        if wants_stream(request):
            asked = chat_pb2.StreamCompleteRequest(body=body, no_cache=_no_cache(scope))
            call = self._inference.StreamComplete(asked, timeout=self._waiting.answer)
            stream = chunk_stream(call, self._streams, self._waiting.answer)
            events = _WithSources() if (HEADER, NAME) in scope["headers"] else _Chunks()
            await send_events((scope, receive, send), stream, events, self._waiting, started)
            return
        called = time.perf_counter()
        whole = self._inference.Complete(
            chat_pb2.CompleteRequest(body=body, no_cache=_no_cache(scope)), timeout=self._waiting.answer
        )
        await send_answer(receive, send, whole, called - started)


class _Chunks(ChunkEvents):
    """Several chunks may come together."""

    def take(self, part: Any) -> bytes:
        sent = super().take(part)
        return sent + b"".join([frame(chunk) for chunk in part.more]) if part.more else sent


class _WithSources(ChunkEvents):
    def __init__(self) -> None:
        super().__init__()
        self._sources = SourceEvents()

    def take(self, part: Any) -> bytes:
        if part.HasField("info"):
            return super().take(part)
        return b"".join(frame(event) for chunk in (part.data, *part.more) for event in (chunk, *self._sources.after(chunk)))


def _no_cache(scope: Scope) -> bool:
    """Whether the caller wants an answer of his own: `Cache-Control: no-cache` or `no-store`."""
    return any(name == b"cache-control" and (b"no-cache" in value or b"no-store" in value) for name, value in scope["headers"])
