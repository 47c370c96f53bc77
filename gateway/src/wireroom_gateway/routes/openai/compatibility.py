"""`/v1/completions`, `/v1/embeddings`, `/v1/moderations`: bodies are handed on as they come."""

from __future__ import annotations

import time
from typing import Any

from fastapi import FastAPI
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from wireroom_gateway.access import Body, Bucket, access
from wireroom_gateway.reattaching import ReattachingMade
from wireroom_gateway.routes.answering import (
    Waiting,
    answer_of,
    read_object,
    send_events,
    send_json,
    wants_stream,
)
from wireroom_gateway.routes.openai.answers import ChunkEvents, described, send_answer
from wireroom_protos.chat.v1 import compatibility_pb2 as messages
from wireroom_protos.chat.v1 import compatibility_pb2_grpc, conversation_pb2, conversation_pb2_grpc

COMPLETIONS, EMBEDDINGS, MODERATIONS = "/v1/completions", "/v1/embeddings", "/v1/moderations"
_OBJECT = {"type": "object"}
_TEXT = {"type": "string"}
_TEXTS = {"type": "array", "minItems": 1, "items": _TEXT}
OPENAPI: dict[str, Any] = {
    COMPLETIONS: {
        "post": described(
            "completions",
            "Text Completions",
            description="The older text completion request: 'prompt' is asked as a message of a chat.",
            required=["model", "prompt"],
            members={"model": _TEXT, "prompt": {"anyOf": [_TEXT, _TEXTS]}, "stream": {"type": "boolean"}},
            answer={
                "type": "object",
                "required": ["id", "object", "created", "model", "choices", "usage"],
                "properties": {
                    "object": {"const": "text_completion"},
                    "choices": {"type": "array", "minItems": 1, "items": _OBJECT},
                },
            },
            streams=True,
        )
    },
    EMBEDDINGS: {
        "post": described(
            "embeddings",
            "Embeddings",
            description="Vectors for texts, in the order of the inputs.",
            required=["model", "input"],
            members={
                "model": _TEXT,
                "input": {"anyOf": [_TEXT, {"type": "array", "minItems": 1, "maxItems": 2048}]},
                "encoding_format": {"enum": ["float", "base64", None]},
                "dimensions": {"type": ["integer", "null"], "minimum": 1, "maximum": 16384},
            },
            answer={
                "type": "object",
                "required": ["object", "data", "model", "usage"],
                "properties": {"object": {"const": "list"}, "data": {"type": "array", "minItems": 1, "items": _OBJECT}},
            },
        )
    },
    MODERATIONS: {
        "post": described(
            "moderations",
            "Moderations",
            description="Scores of local word and phrase rules (English) in OpenAI's categories; no model is asked.",
            required=["input"],
            members={
                "input": {"anyOf": [_TEXT, {"type": "array", "minItems": 1, "maxItems": 256}]},
                "model": {"type": ["string", "null"]},
            },
            answer={
                "type": "object",
                "required": ["id", "model", "results"],
                "properties": {"results": {"type": "array", "minItems": 1, "items": _OBJECT}},
            },
        )
    },
}


def add_compatibility_routes(
    api: FastAPI,
    stub: compatibility_pb2_grpc.CompatibilityServiceAsyncStub,
    streams: conversation_pb2_grpc.StreamServiceAsyncStub,
    waiting: Waiting,
) -> None:
    """Plain ASGI endpoints."""
    for path, endpoint in (
        (COMPLETIONS, Completions(stub, streams, waiting)),
        (EMBEDDINGS, Embeddings(stub, waiting)),
        (MODERATIONS, Moderations(stub, waiting)),
    ):
        api.router.routes.append(Route(path, endpoint, methods=["POST"]))


@access("llm:invoke", bucket=Bucket.CHAT, body=Body.CHAT)
class Completions:
    """A client that goes away cancels the call."""

    def __init__(
        self,
        stub: compatibility_pb2_grpc.CompatibilityServiceAsyncStub,
        streams: conversation_pb2_grpc.StreamServiceAsyncStub,
        waiting: Waiting,
    ) -> None:
        self._stub = stub
        self._streams = streams
        self._waiting = waiting

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = time.perf_counter()
        body, request = await read_object(scope, receive)
        if wants_stream(request):
            stream = self._stream(body)
            await send_events((scope, receive, send), stream, ChunkEvents(), self._waiting, started)
            return
        overhead = time.perf_counter() - started
        call = self._stub.CompleteText(messages.CompleteTextRequest(body=body), timeout=self._waiting.answer)
        await send_answer(receive, send, call, overhead)

    def _stream(self, body: bytes) -> ReattachingMade:
        """The chunks, from another replica when the one that makes them is gone."""

        def again(stream_id: str, known: int, tail: list[conversation_pb2.StreamFrame]) -> Any:
            request = messages.ResumeCompleteTextRequest(body=body, stream_id=stream_id, chunks=known, tail=tail)
            return self._stub.ResumeCompleteText(request, timeout=self._waiting.answer)

        call = self._stub.StreamCompleteText(messages.StreamCompleteTextRequest(body=body), timeout=self._waiting.answer)
        return ReattachingMade(
            call, self._streams, again=again, counts=lambda part: bool(part.HasField("data")), timeout=self._waiting.answer
        )


@access("llm:invoke", bucket=Bucket.CHAT, body=Body.CHAT)
class Embeddings:
    """A client that goes away cancels the call."""

    def __init__(self, stub: compatibility_pb2_grpc.CompatibilityServiceAsyncStub, waiting: Waiting) -> None:
        self._stub = stub
        self._waiting = waiting

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = time.perf_counter()
        body, _ = await read_object(scope, receive)
        overhead = time.perf_counter() - started
        call = self._stub.Embed(messages.EmbedRequest(body=body), timeout=self._waiting.answer)
        await send_answer(receive, send, call, overhead)


@access("llm:invoke", bucket=Bucket.CHAT, body=Body.CHAT)
class Moderations:
    """Calls no model."""

    def __init__(self, stub: compatibility_pb2_grpc.CompatibilityServiceAsyncStub, waiting: Waiting) -> None:
        self._stub = stub
        self._waiting = waiting

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body, _ = await read_object(scope, receive)
        call = self._stub.Moderate(messages.ModerateRequest(body=body), timeout=self._waiting.answer)
        await send_json(send, (await answer_of(call, receive)).body)
