"""Answers that a service makes while the client waits, whole or as events. A client that goes away cancels the call."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import grpc.aio
from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive, Scope, Send

from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_common.logging import get_logger
from wireroom_gateway import strict_json
from wireroom_gateway.problems import http_problem, openai_error, problem_of
from wireroom_gateway.request_body import read_body
from wireroom_gateway.request_state import request_state
from wireroom_gateway.routes.event_stream import KEEPALIVE, FrameQueue

T = TypeVar("T")
Headers = list[tuple[bytes, bytes]]
# Above this a body is parsed in a thread: 20 MB take tens of milliseconds.
_PARSE_INLINE_BYTES = 128 * 1024
_log = get_logger(__name__)


@dataclass(frozen=True)
class Waiting:
    """Seconds: for the whole answer, for a stream's first part before its headers are sent anyway, between two signs of life."""

    answer: float
    stream_headers: float
    keepalive: float


class Parts(Protocol):
    """The parts of one streamed answer: a call, or several that follow each other."""

    def __aiter__(self) -> AsyncIterator[Any]:
        """The parts in order."""

    def cancel(self) -> Any:
        """Nobody wants them any more."""


class Events(Protocol):
    """How the parts of one streamed answer look to the client."""

    def take(self, part: Any) -> bytes:
        """What to send for a part; empty for nothing."""

    def headers(self) -> Headers:
        """Headers that tell of the answer, as far as it is known."""

    def end(self, scope: Scope, error: Exception | None) -> bytes:
        """What to send at the end."""


async def read_object(scope: Scope, receive: Receive) -> tuple[bytes, dict[str, Any]]:
    """The body, which must be a JSON object, as it came and parsed."""
    content_type = next((value for name, value in scope["headers"] if name == b"content-type"), b"").decode("latin-1")
    strict_json.require_content_type(content_type)
    body = await read_body(receive)
    large = len(body) > _PARSE_INLINE_BYTES
    request = await asyncio.to_thread(strict_json.parse, body) if large else strict_json.parse(body)
    if not isinstance(request, dict):
        raise http_problem(400, "The body must be a JSON object.", code="request_invalid")
    return body, request


def wants_stream(request: dict[str, Any]) -> bool:
    """The member `stream`; INVALID if it is no boolean."""
    stream = request.get("stream")
    if stream is not None and not isinstance(stream, bool):
        raise WireroomError(ErrorKind.INVALID, "stream_invalid", "'stream' must be true or false.")
    return bool(stream)


async def answer_of(call: grpc.aio.UnaryUnaryCall[Any, T], receive: Receive) -> T:
    """The answer; ClientDisconnect, and the call is cancelled, if the client goes away before."""
    gone = asyncio.ensure_future(_disconnected(receive))
    gone.add_done_callback(lambda _: call.cancel())
    try:
        return await call
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        # It was not this task but the call that was cancelled.
        raise ClientDisconnect if gone.done() else _given_up() from None
    finally:
        gone.cancel()


async def pieces_of(call: grpc.aio.UnaryStreamCall[Any, T]) -> AsyncGenerator[T, None]:
    """The pieces of a streamed answer; the call ends with whoever reads them."""
    try:
        async for piece in call:
            yield piece
    finally:
        call.cancel()


async def send_json(send: Send, body: bytes, headers: Sequence[tuple[bytes, bytes]] = (), *, status: int = 200) -> None:
    """A whole answer."""
    head = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), *headers]
    await send({"type": "http.response.start", "status": status, "headers": head})
    await send({"type": "http.response.body", "body": body})


async def send_events(
    exchange: tuple[Scope, Receive, Send],
    call: Parts,
    events: Events,
    waiting: Waiting,
    started: float,
) -> None:
    """The parts of the call as server-sent events. A failure before the first part is raised, a later one is told by `events`."""
    scope, receive, send = exchange
    overhead = time.perf_counter() - started
    queue = FrameQueue()
    tasks = [asyncio.ensure_future(_read(call, events, queue)), asyncio.ensure_future(_watch(receive, queue))]
    try:
        await queue.wait(waiting.stream_headers)
        if queue.client_gone:
            raise ClientDisconnect
        if queue.error is not None:
            # Nothing was sent yet: the client gets a proper status.
            raise queue.error
        headers = [
            (b"content-type", b"text/event-stream; charset=utf-8"),
            (b"cache-control", b"no-cache"),
            (b"x-accel-buffering", b"no"),
            *events.headers(),
            overhead_header(overhead),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await _write(scope, queue, events, send, waiting.keepalive)
    finally:
        call.cancel()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def overhead_header(seconds: float) -> tuple[bytes, bytes]:
    """What of the time was spent here and not behind."""
    return (b"x-overhead-ms", f"{seconds * 1000:.2f}".encode())


def told(scope: Scope, error: Exception) -> dict[str, Any]:
    """OpenAI's error object for what went wrong in the middle of an answer; it is noted in the log."""
    problem = problem_of(error)
    request_state(scope).error_code = problem.code
    if not isinstance(error, WireroomError):
        _log.error("stream_failed", exc_info=error)
    return openai_error(problem)


async def _write(scope: Scope, queue: FrameQueue, events: Events, send: Send, keepalive: float) -> None:
    while True:
        ready = queue.drain()
        if queue.client_gone:
            raise ClientDisconnect
        if queue.finished:
            ready += events.end(scope, queue.error)
            await send({"type": "http.response.body", "body": ready})
            return
        if ready:
            await send(_part(ready))
        if not await queue.wait(keepalive):
            await send(_part(KEEPALIVE))


async def _read(call: Parts, events: Events, queue: FrameQueue) -> None:
    """Reads the answer into the queue."""
    try:
        async for part in call:
            data = events.take(part)
            if data:
                await queue.put(data)
            else:
                queue.wake()
    except asyncio.CancelledError:
        # Given up by the service, unless by this side; then nobody looks at the queue any more.
        queue.finish(_given_up())
        raise
    except Exception as error:  # noqa: BLE001 - whatever it is, the client must be told that the stream ended badly
        queue.finish(error)
    else:
        queue.finish()


async def _watch(receive: Receive, queue: FrameQueue) -> None:
    await _disconnected(receive)
    queue.leave()


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _given_up() -> WireroomError:
    return WireroomError(ErrorKind.UNAVAILABLE, "answer_given_up", "The answer was given up. Try again.", retry_after=1.0)


def _part(data: bytes) -> Message:
    return {"type": "http.response.body", "body": data, "more_body": True}
