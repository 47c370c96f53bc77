"""Short answers in one write: head and body together, and without looking at the same header lines again for each answer.

uvicorn writes head and body with a system call each, and checks each byte of each header each time. For an answer of a few hundred
bytes with a dozen constant headers that is a tenth of what serving it costs.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from uvicorn.protocols.http.httptools_impl import HEADER_RE, HEADER_VALUE_RE, STATUS_LINE, RequestResponseCycle

# Larger bodies are not copied to stand beside their head.
_SHORT_BODY = 64 * 1024
_BODILESS = frozenset({204, 304})
_DECIDING = frozenset({b"transfer-encoding", b"connection"})


class ShortAnswers:
    """An ASGI application around another one. Whatever is no complete short answer goes the server's own way."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        cycle = getattr(send, "__self__", None)
        if type(cycle) is not RequestResponseCycle or scope["method"] == "HEAD":
            await self._app(scope, receive, send)
            return
        answer = _Answer(cycle)
        try:
            await self._app(scope, receive, answer.send)
        finally:
            if answer.held is not None:
                # The application gave up after the head. Its client shall see where it did.
                await cycle.send(answer.held)


class _Answer:
    def __init__(self, cycle: RequestResponseCycle) -> None:
        self._cycle = cycle
        self.held: Any = None
        self._length = -1

    async def send(self, message: Any) -> None:
        if message["type"] == "http.response.start" and self.held is None:
            self._length = _length_of(message)
            if self._length < 0:
                await self._cycle.send(message)
            else:
                self.held = message
            return
        start, self.held = self.held, None
        if start is None:
            await self._cycle.send(message)
            return
        body = message.get("body", b"")
        cycle = self._cycle
        plain = message["type"] == "http.response.body" and not message.get("more_body", False) and len(body) == self._length
        if not plain or cycle.flow.write_paused or cycle.disconnected or cycle.response_started:
            await cycle.send(start)
            await cycle.send(message)
            return
        content = [STATUS_LINE[start["status"]]]
        for name, value in cycle.default_headers:
            content.append(_line(name, value))
        for name, value in start["headers"]:
            content.append(_line(name, value))
        content.append(b"\r\n" if cycle.keep_alive else b"connection: close\r\n\r\n")
        content.append(body)
        cycle.response_started = cycle.response_complete = True
        cycle.waiting_for_100_continue = False
        cycle.chunked_encoding = False
        cycle.expected_content_length = 0
        cycle.transport.write(b"".join(content))
        cycle.message_event.set()
        if not cycle.keep_alive:
            cycle.transport.close()
        cycle.on_response()


def _length_of(start: Any) -> int:
    """The length of a short body; -1 if the answer is not of the plain kind."""
    length = -1
    for name, value in start.get("headers", ()):
        if name == b"content-length":
            if length >= 0 or not value.isdigit() or len(value) > len(str(_SHORT_BODY)):
                return -1
            length = int(value)
        elif name in _DECIDING:
            return -1
    return -1 if length > _SHORT_BODY or start["status"] in _BODILESS else length


@lru_cache(maxsize=1_024)
def _line(name: bytes, value: bytes) -> bytes:
    if HEADER_RE.search(name):
        raise RuntimeError("Invalid HTTP header name.")
    if HEADER_VALUE_RE.search(value):
        raise RuntimeError("Invalid HTTP header value.")
    return b"%b: %b\r\n" % (name.lower(), value)
