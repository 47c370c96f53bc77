"""`POST /v1/chat/completions`: a plain ASGI endpoint, because every token passes through here."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Any

import grpc.aio
import orjson
from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive, Scope, Send

from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_common.logging import get_logger
from wireroom_gateway import strict_json
from wireroom_gateway.access import Body, Bucket, access
from wireroom_gateway.problems import http_problem, openai_error, problem_of
from wireroom_gateway.request_body import read_body
from wireroom_gateway.request_state import request_state
from wireroom_gateway.routes.openai.event_stream import DONE, KEEPALIVE, FrameQueue, frame
from wireroom_protos.chat.v1 import chat_pb2, chat_pb2_grpc

PATH = "/v1/chat/completions"
# Above this a body is parsed in a thread: 20 MB take tens of milliseconds.
_PARSE_INLINE_BYTES = 128 * 1024
_log = get_logger(__name__)

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
_EVENTS: dict[str, Any] = {
    "type": "string",
    "description": "Server-sent events; the data of each is a `chat.completion.chunk` as JSON, at the end `[DONE]`",
}
OPENAPI: dict[str, Any] = {
    PATH: {
        "post": {
            "tags": ["openai"],
            "summary": "Chat Completions",
            "description": "The OpenAI chat completion request. `grounding` may stand beside the standard members.",
            "operationId": "chat_completions",
            "requestBody": {
                "required": True,
                "content": {
                    "application/json": {
                        "schema": {
                            "type": "object",
                            "required": ["model", "messages"],
                            "properties": {
                                "model": {"type": "string"},
                                "messages": {"type": "array", "items": {"type": "object"}},
                                "stream": {"type": "boolean"},
                                "grounding": {"type": "object"},
                            },
                            "additionalProperties": True,
                        }
                    }
                },
            },
            "responses": {
                "200": {
                    "description": "A chat completion, or its chunks as server-sent events",
                    "content": {"application/json": {"schema": _COMPLETION}, "text/event-stream": {"schema": _EVENTS}},
                },
                **{
                    str(status): {"description": text}
                    for status, text in {
                        400: "The request is malformed",
                        401: "No credential, or one that is not valid",
                        403: "The permission is missing",
                        404: "There is no such model",
                        413: "The body is too large",
                        415: "The body is not JSON",
                        429: "A rate limit is used up",
                        503: "The model cannot be reached",
                        504: "The model did not answer in time",
                    }.items()
                },
            },
        }
    }
}


@access("llm:invoke", bucket=Bucket.CHAT, body=Body.CHAT)
class ChatCompletions:
    """Hands the body on as it came, and the answer back. A client that goes away cancels the call."""

    def __init__(
        self, inference: chat_pb2_grpc.InferenceServiceAsyncStub, *, timeout: float, keepalive: float, stream_headers: float
    ) -> None:
        self._inference = inference
        self._timeout = timeout
        self._keepalive = keepalive
        self._stream_headers = stream_headers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = time.perf_counter()
        content_type = next((value for name, value in scope["headers"] if name == b"content-type"), b"").decode("latin-1")
        strict_json.require_content_type(content_type)
        body = await read_body(receive)
        large = len(body) > _PARSE_INLINE_BYTES
        request = await asyncio.to_thread(strict_json.parse, body) if large else strict_json.parse(body)
        if not isinstance(request, dict):
            raise http_problem(400, "The body must be a JSON object.", code="request_invalid")
        stream = request.get("stream")
        if stream is not None and not isinstance(stream, bool):
            raise WireroomError(ErrorKind.INVALID, "stream_invalid", "'stream' must be true or false.")
        if stream:
            await self._stream(scope, body, receive, send, started)
        else:
            await self._complete(body, receive, send, started)

    async def _complete(self, body: bytes, receive: Receive, send: Send, started: float) -> None:
        call = self._inference.Complete(chat_pb2.CompleteRequest(body=body), timeout=self._timeout)
        called = time.perf_counter()
        answer = asyncio.ensure_future(_result(call))
        gone = asyncio.ensure_future(_disconnected(receive))
        try:
            await asyncio.wait((answer, gone), return_when=asyncio.FIRST_COMPLETED)
            if not answer.done():
                raise ClientDisconnect
            if answer.cancelled():
                raise _given_up()
            response = answer.result()
        finally:
            gone.cancel()
            if not answer.done():
                call.cancel()
                answer.cancel()
                with contextlib.suppress(asyncio.CancelledError, WireroomError):
                    await answer
        waited = time.perf_counter() - called
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(response.body)).encode()),
            *_answer_headers(response.info),
            (b"x-overhead-ms", f"{(time.perf_counter() - started - waited) * 1000:.2f}".encode()),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": response.body})

    async def _stream(self, scope: Scope, body: bytes, receive: Receive, send: Send, started: float) -> None:
        call = self._inference.StreamComplete(chat_pb2.StreamCompleteRequest(body=body), timeout=self._timeout)
        overhead = time.perf_counter() - started
        queue = FrameQueue()
        reader = _Reader(call, queue)
        tasks = [asyncio.ensure_future(reader.run()), asyncio.ensure_future(_watch(receive, queue))]
        try:
            await queue.wait(self._stream_headers)
            if queue.client_gone:
                raise ClientDisconnect
            if queue.error is not None:
                # Nothing was sent yet: the client gets a proper status.
                raise queue.error
            headers = [
                (b"content-type", b"text/event-stream; charset=utf-8"),
                (b"cache-control", b"no-cache"),
                (b"x-accel-buffering", b"no"),
                *_answer_headers(reader.info),
                (b"x-overhead-ms", f"{overhead * 1000:.2f}".encode()),
            ]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await self._write(scope, queue, send)
        finally:
            call.cancel()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _write(self, scope: Scope, queue: FrameQueue, send: Send) -> None:
        while True:
            ready = queue.drain()
            if queue.client_gone:
                raise ClientDisconnect
            if queue.finished:
                ready += DONE if queue.error is None else _error_frame(scope, queue.error)
                await send({"type": "http.response.body", "body": ready})
                return
            if ready:
                await send(_part(ready))
            if not await queue.wait(self._keepalive):
                await send(_part(KEEPALIVE))


class _Reader:
    """Reads the answer into the queue."""

    def __init__(
        self, call: grpc.aio.UnaryStreamCall[chat_pb2.StreamCompleteRequest, chat_pb2.StreamCompleteResponse], queue: FrameQueue
    ) -> None:
        self._call = call
        self._queue = queue
        self.info: chat_pb2.CompletionInfo | None = None

    async def run(self) -> None:
        try:
            async for part in self._call:
                if part.HasField("info"):
                    self.info = part.info
                    self._queue.wake()
                else:
                    await self._queue.put(frame(part.data))
        except asyncio.CancelledError:
            # Given up by the service, unless by this side; then nobody looks at the queue any more.
            self._queue.finish(_given_up())
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, the client must be told that the stream ended badly
            self._queue.finish(error)
        else:
            self._queue.finish()


async def _watch(receive: Receive, queue: FrameQueue) -> None:
    await _disconnected(receive)
    queue.leave()


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _result(
    call: grpc.aio.UnaryUnaryCall[chat_pb2.CompleteRequest, chat_pb2.CompleteResponse],
) -> chat_pb2.CompleteResponse:
    return await call


def _given_up() -> WireroomError:
    return WireroomError(ErrorKind.UNAVAILABLE, "answer_given_up", "The answer was given up. Try again.", retry_after=1.0)


def _answer_headers(info: chat_pb2.CompletionInfo | None) -> list[tuple[bytes, bytes]]:
    return [(b"x-answer-mode", info.answer_mode.encode("ascii", "replace"))] if info and info.answer_mode else []


def _part(data: bytes) -> Message:
    return {"type": "http.response.body", "body": data, "more_body": True}


def _error_frame(scope: Scope, error: Exception) -> bytes:
    problem = problem_of(error)
    state = request_state(scope)
    state.error_code = problem.code
    if not isinstance(error, WireroomError):
        _log.error("stream_failed", exc_info=error)
    return frame(orjson.dumps(openai_error(problem)))
