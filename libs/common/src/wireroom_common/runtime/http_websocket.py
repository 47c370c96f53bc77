"""The WebSocket connection: uvicorn's protocol over `websockets` (sans I/O) with limits, deadlines and an end that does not wait.

Who does not read is closed with 1013, who does not answer pings or does not finish a message with 4408, everybody with 1012 when the
process stops. A message larger than the limit ends the connection with 1009, bytes that are no WebSocket frames with 1002 or 1007.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, cast

from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.exceptions import InvalidState

from wireroom_common.runtime.http_limits import PEER_KEY, ListenerState, Refusal

if TYPE_CHECKING:
    from uvicorn._types import ASGISendEvent
    from uvicorn.config import Config
    from uvicorn.server import ServerState
    from websockets.frames import Frame
    from websockets.http11 import Request

RESTART = 1012
TRY_AGAIN_LATER = 1013
TIMED_OUT = 4408
# Sent by the library when a message is too large.
MESSAGE_TOO_BIG = 1009
# The library that reads the handshake takes no longer lines.
MAX_LINE = 8_000
# For the other side's part of closing; whoever takes longer is cut off.
_CLOSE_SECONDS = 2.0
_FLUSH_SECONDS = 5.0
_KEY_BYTES = 16
_VERSION = b"13"

_HANDSHAKE = Refusal(400, "handshake_invalid", "This is no valid WebSocket handshake (RFC 6455, section 4).")
_VERSION_REFUSED = Refusal(
    426,
    "websocket_version_unsupported",
    "WebSockets are spoken in version 13.",
    headers=(("sec-websocket-version", "13"), ("upgrade", "websocket")),
)


def handshake_refusal(method: bytes, http_version: str, headers: Sequence[tuple[bytes, bytes]]) -> Refusal | None:
    """Why a request that asks for a WebSocket cannot have one; names of `headers` in lower case."""
    keys = [value for name, value in headers if name == b"sec-websocket-key"]
    versions = [value for name, value in headers if name == b"sec-websocket-version"]
    if method != b"GET" or http_version != "1.1" or len(keys) != 1 or not _is_key(keys[0]) or len(versions) != 1:
        return _HANDSHAKE
    return None if versions[0] == _VERSION else _VERSION_REFUSED


def _is_key(value: bytes) -> bool:
    try:
        return len(base64.b64decode(value, validate=True)) == _KEY_BYTES
    except binascii.Error:
        return False


class GuardedWebSocket(WebSocketsSansIOProtocol):
    """One connection, from the handshake on. `sweep` must be called about every second."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        loop: asyncio.AbstractEventLoop,
        *,
        shared: ListenerState,
        client: tuple[str, int] | None,
        peer: tuple[str, int] | None,
        on_lost: Callable[[], None],
    ) -> None:
        """`client`: as the HTTP connection knew it; `peer`: the other end, where a proxy told the client."""
        super().__init__(config, server_state, {}, loop)
        self.app = shared.websocket_app
        self.close_timeout = _CLOSE_SECONDS
        self._shared = shared
        self._limits = shared.websocket_limits
        self._known_client = client
        self._peer = peer
        self._on_lost = on_lost
        self._closing_since: float | None = None
        self._message_since: float | None = None
        self._stopping = False

    def begin(self, transport: asyncio.BaseTransport, url: bytes, headers: Sequence[tuple[bytes, bytes]]) -> None:
        """Take the connection over with the handshake that was read from it."""
        self.connection_made(transport)
        self.client = self._known_client
        lines = [b"GET ", url, b" HTTP/1.1\r\n"]
        for name, value in headers:
            lines += (name, b": ", value, b"\r\n")
        self.data_received(b"".join((*lines, b"\r\n")))
        if not self.handshake_initiated:
            self._shared.metrics.cut.labels("handshake_invalid").inc()
            self.transport.abort()

    # Events of the transport

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._on_lost()

    def shutdown(self) -> None:
        if self.handshake_complete:
            self.end(RESTART, "The server restarts; connect again.")
        else:
            self._stopping = True

    # Events of the parser

    def handle_connect(self, event: Request) -> None:
        super().handle_connect(event)
        if self._peer is not None and self._peer is not self.client and self.response.status_code == 101:  # noqa: PLR2004 - HTTP's
            cast("dict[str, Any]", self.scope)[PEER_KEY] = self._peer

    def handle_cont(self, event: Frame) -> None:
        super().handle_cont(event)
        if len(self.frames) > self._limits.fragments:
            self.frames = []
            self.end(MESSAGE_TOO_BIG, "The message comes in too many parts.")

    def handle_ping(self) -> None:
        answer = b"".join(self.conn.data_to_send())
        # Whoever asks without reading gets no answers piled up.
        if self.writable.is_set():
            self.transport.write(answer)

    def keepalive_timeout(self) -> None:
        self.pong_timer = None
        self._shared.metrics.cut.labels("ping_timeout").inc()
        self.end(TIMED_OUT, "Pings are not answered.")

    # Deadlines

    def sweep(self, now: float, _elapsed: float) -> None:
        """Cut off whom the connection has waited for too long."""
        if self._closing_since is not None:
            if now - self._closing_since > _FLUSH_SECONDS:
                self.transport.abort()
        elif not self.frames:
            self._message_since = None
        elif self._message_since is None:
            self._message_since = now
        elif now - self._message_since > self._limits.message_seconds:
            self._shared.metrics.cut.labels("message_timeout").inc()
            self.end(TIMED_OUT, "The message did not arrive in time.")

    # For the application

    async def send(self, message: ASGISendEvent) -> None:
        kind = message["type"]
        if kind == "websocket.close" and self.handshake_complete and self.initial_response is None:
            closing = cast("dict[str, Any]", message)
            self.end(closing.get("code", 1000), closing.get("reason") or "")
            return
        if not self.writable.is_set():
            await self._reader()
        if self.close_sent and self.initial_response is None:
            # Two tasks may send, and one of them has closed.
            raise ClientDisconnected
        await super().send(message)
        if kind == "websocket.accept":
            # Nobody needs the handshake any more, and it is a good part of what a connection holds.
            del self.request, self.response
            self.scope = cast("Any", {})
            if self._stopping:
                self.shutdown()

    async def _reader(self) -> None:
        """Wait until the other side has read some of what was written; ends the connection if it does not."""
        try:
            async with asyncio.timeout(self._shared.limits.read_grace_seconds):
                await self.writable.wait()
        except TimeoutError:
            self._shared.metrics.cut.labels("slow_reader").inc()
            self.end(TRY_AGAIN_LATER, "What was sent is not read.")
            raise ClientDisconnected from None

    def end(self, code: int, reason: str) -> None:
        """Close, without waiting for room in the connection: the application learns of it at once, the other side as soon as it reads."""
        self.stop_keepalive()
        if self.close_sent or self.disconnected or self.transport.is_closing():
            return
        self.close_sent = True
        self._closing_since = self.loop.time()
        self.queue.put_nowait({"type": "websocket.disconnect", "code": code, "reason": reason})
        with contextlib.suppress(InvalidState):
            self.conn.send_close(code, reason)
        self.transport.write(b"".join(self.conn.data_to_send()))
        if self.read_paused:
            self.read_paused = False
            self.transport.resume_reading()
        self.close_timer = self.loop.call_later(self.close_timeout, self.transport.close)
