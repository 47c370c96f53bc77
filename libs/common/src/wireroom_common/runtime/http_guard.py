"""The HTTP/1.1 connection: uvicorn's protocol with limits, strict framing and deadlines around its parser.

What the parser (llhttp, strict) refuses by itself is refused; what it lets through and RFC 9112 or prudence does not is refused here.
A refusal is handed to the application like a request, so that it is rendered, counted and logged as any other answer; then the
connection ends.
"""

from __future__ import annotations

import asyncio
import fcntl
import re
import socket
import sys
import termios
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from wireroom_common.runtime.http_limits import PEER_KEY, REFUSAL_KEY, ListenerState, Refusal
from wireroom_common.runtime.http_websocket import MAX_LINE, GuardedWebSocket, handshake_refusal

if TYPE_CHECKING:
    from uvicorn._types import HTTPScope
    from uvicorn.config import Config
    from uvicorn.server import ServerState

_VERSIONS = frozenset({"1.1", "1.0"})
_HOST = re.compile(rb"(?:[A-Za-z0-9._-]{0,255}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?")
_ABSOLUTE = re.compile(rb"(?i:https?)://([^/?#]*)[/?#].*", re.DOTALL)
_EXAMINED = frozenset({b"host", b"transfer-encoding", b"content-length", b"expect"})
# A client that was refused may go on sending; without this pause the reset would take the answer from it.
_LINGER_SECONDS = 2.0
_LINGER_BYTES = 1024 * 1024
# A courtesy of a few bytes per chunk: its size line and two line ends.
_PER_CHUNK = 16
# The most that a transport hands over at once; the head may have begun at its end.
_READ_BYTES = 256 * 1024
# What a resumed writer has got rid of at least: high minus low water mark of the transport.
_RESUMED_BYTES = 48 * 1024

MALFORMED = Refusal(400, "request_malformed", "This is not a well-formed HTTP/1.1 request.")
_HEAD_TOO_LARGE = Refusal(431, "header_fields_too_large", "The header fields are too many or too large.")
_TARGET_TOO_LONG = Refusal(414, "target_too_long", "The address of the request is too long.")
_HEAD_TIMEOUT = Refusal(408, "request_timeout", "The head of the request did not arrive in time.")
_BODY_TIMEOUT = Refusal(408, "body_timeout", "The body of the request arrived too slowly.")
_FRAMING = Refusal(400, "framing_invalid", "The length of the request's body is not stated in exactly one valid way.")
_CODING = Refusal(501, "transfer_coding_unsupported", "The only transfer coding taken is 'chunked'.")
_VERSION = Refusal(505, "http_version_unsupported", "HTTP/1.1 and HTTP/1.0 are spoken here.")
_HOST_INVALID = Refusal(400, "host_invalid", "A request has exactly one Host field, with a host name and at most a port.")
_HOST_MISMATCH = Refusal(400, "host_mismatch", "The address of the request names another host than its Host field.")
_TARGET_INVALID = Refusal(400, "target_invalid", "The address of a request begins with a slash.")
_CONNECT = Refusal(
    405, "method_not_allowed", "This is no proxy.", headers=(("allow", "DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT"),)
)
_STOPPING = Refusal(
    503, "stopping", "This server is about to stop. Connect again; another one answers.", headers=(("retry-after", "1"),)
)
_UPGRADE = Refusal(400, "upgrade_unsupported", "A request that asks for another protocol cannot have a body.")
TOO_MANY_CONNECTIONS = Refusal(
    503, "too_many_connections", "Too many connections are open. Try again later.", headers=(("retry-after", "5"),)
)


class _RefusedError(Exception):
    """Ends the parser's run."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.code)
        self.refusal = refusal


class _LastAnswer:
    """The transport as the last answer sees it: closing it leaves time to read the answer."""

    def __init__(self, guard: GuardedProtocol) -> None:
        self._guard = guard
        self.write = guard.transport.write
        self.is_closing = guard.transport.is_closing

    def close(self) -> None:
        self._guard.linger()


class GuardedProtocol(HttpToolsProtocol):
    """One connection. `sweep` must be called about every second."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        shared: ListenerState,
        client: tuple[str, int] | None = None,
        refused: Refusal | None = None,
        on_lost: Callable[[], None] = lambda: None,
    ) -> None:
        """`client`: as told by the PROXY protocol. `refused`: the connection is not served at all."""
        super().__init__(config, server_state, app_state, _loop)
        self._shared = shared
        self._limits = shared.limits
        self._max_fields = shared.limits.head_fields
        self._told_client = client
        self._refused = refused
        self._on_lost = on_lost
        self._peer: tuple[str, int] | None = None
        # Nothing that arrives is looked at any more.
        self._over = False
        self._lingering = False
        self._discarded = 0
        self._head_since: float | None = None
        self._begun = self._in_body = False
        # Of these, at most so many bytes are the head's: what came since the read in which it began.
        self._pending = self._read = 0
        self._good_host = b""
        self._upgrading = self._websocket = False
        self._examined: list[tuple[bytes, bytes]] = []
        self._raw_bytes = self._body_bytes = self._chunks = 0
        self._swept_bytes = 0
        self._body_credit = self._limits.body_grace_seconds
        self._read_credit = self._limits.read_grace_seconds
        self._buffered = 0
        self._resumed = False

    # Events of the transport

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in the library
        super().connection_made(transport)
        self._peer = self.client
        self.client = self._told_client or self.client
        self._head_since = self.loop.time()
        if self._refused is not None:
            self._answer(self._refused)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._on_lost()

    def data_received(self, data: bytes) -> None:  # noqa: C901 - runs for each read: calls would cost more than they tidy up
        if self._over:
            self._discard(len(data))
            return
        self._unset_keepalive_if_required()
        self._read = size = len(data)
        if self._in_body:
            self._raw_bytes += size
        elif self._head_since is None:
            self._head_since = self.loop.time()
        elif self._begun:
            self._pending += size
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            if self._websocket and upgrade.args[0] < size:
                # It did not wait for the answer: what follows may be a request in disguise.
                self._refuse(MALFORMED)
            elif self._websocket:
                self.handle_websocket_upgrade()
        except httptools.HttpParserError as error:
            cause = error.__context__
            self._refuse(cause.refusal if isinstance(cause, _RefusedError) else MALFORMED)
        else:
            if self._begun and self._pending > self._limits.head_bytes + self._limits.target_bytes + _READ_BYTES:
                self._refuse(_HEAD_TOO_LARGE)
            elif self._in_body and self._overhead() > self._limits.chunk_overhead_bytes:
                self._refuse(_FRAMING)

    def resume_writing(self) -> None:
        self._resumed = True
        super().resume_writing()

    def shutdown(self) -> None:
        if self._begun and self._head_since is not None and not self._over and not self._answering():
            # It is in the middle of asking. It is answered and closed then; its deadline runs.
            return
        super().shutdown()

    # Events of the parser

    def on_message_begin(self) -> None:
        super().on_message_begin()
        if self._peer is not self.client:
            cast("dict[str, Any]", self.scope)[PEER_KEY] = self._peer
        if self._head_since is None:
            self._head_since = self.loop.time()
        self._begun = True
        self._pending = self._read
        self._examined = []

    def on_url(self, url: bytes) -> None:
        self.url += url
        if len(self.url) > self._limits.target_bytes:
            raise _RefusedError(_TARGET_TOO_LONG)

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_body:
            # A trailer. Among the fields of the head it could pass for one that a proxy has checked.
            return
        name = name.lower()
        headers = self.headers
        headers.append((name, value))
        if name in _EXAMINED:
            self._examined.append((name, value))
        elif len(headers) > self._max_fields:
            raise _RefusedError(_HEAD_TOO_LARGE)

    def on_headers_complete(self) -> None:
        refusal = self._examine()
        if refusal is None and len(self.pipeline) >= self._limits.pipelined:
            refusal = MALFORMED
        if refusal is not None:
            self.scope["method"] = self.parser.get_method().decode("ascii")
            raise _RefusedError(refusal)
        super().on_headers_complete()
        if self._websocket:
            return
        self._head_since = None
        self._begun = False
        self._in_body = True
        self._pending = self._raw_bytes = self._body_bytes = self._chunks = self._swept_bytes = 0
        self._body_credit = self._limits.body_grace_seconds
        if self._upgrading:
            # The parser has stopped: what follows might be in another protocol, or another request in disguise.
            self.cycle.keep_alive = False
            self._over = True
        elif self._shared.draining:
            self.cycle.keep_alive = False

    def on_chunk_header(self) -> None:
        """Called by the parser for each chunk of a body."""
        self._chunks += 1

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._in_body = False
        super().on_message_complete()

    # Deadlines

    def sweep(self, now: float, elapsed: float) -> None:
        """Cut off whom the connection has waited for too long. `elapsed`: seconds since the last sweep."""
        if self._reader_is_stuck(elapsed):
            self._shared.metrics.cut.labels("slow_reader").inc()
            self.transport.abort()
        elif self._over or self.transport.is_closing():
            return
        elif self.flow.read_paused:
            if self._head_since is not None:
                self._head_since = now
        elif self._head_since is not None:
            if now - self._head_since > self._limits.head_seconds:
                self._head_timeout()
        elif self._in_body and not self.cycle.waiting_for_100_continue:
            arrived, self._swept_bytes = self._raw_bytes - self._swept_bytes, self._raw_bytes
            self._body_credit += arrived / self._limits.minimum_rate - elapsed
            self._body_credit = min(self._body_credit, self._limits.body_grace_seconds)
            if self._body_credit < 0:
                self._refuse(_BODY_TIMEOUT)

    def _head_timeout(self) -> None:
        if self._begun:
            self._refuse(_HEAD_TIMEOUT)
        elif self._answering():
            # Line ends after a request. They are not worth cutting its answer off.
            self._head_since = None
        else:
            self._shared.metrics.cut.labels("silent").inc()
            self.transport.close()

    def _reader_is_stuck(self, elapsed: float) -> bool:
        """Whether the other side takes what is written for it, at the minimum rate at least, less the grace."""
        size = self.transport.get_write_buffer_size()
        if size == 0 and not self.flow.write_paused:
            self._buffered = 0
            self._read_credit = self._limits.read_grace_seconds
            return False
        size += self._unacknowledged()
        drained = max(0, self._buffered - size) + (_RESUMED_BYTES if self._resumed else 0)
        self._buffered, self._resumed = size, False
        self._read_credit += drained / self._limits.minimum_rate - elapsed
        self._read_credit = min(self._read_credit, self._limits.read_grace_seconds)
        return self._read_credit < 0

    def _unacknowledged(self) -> int:
        """Bytes that the system still holds for the other side: megabytes, which it asks for more of in large steps only."""
        connection: socket.socket | None = self.transport.get_extra_info("socket")
        waiting = bytearray(4)
        try:
            if connection is not None:
                fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, waiting)
        except OSError:
            return 0
        return int.from_bytes(waiting, sys.byteorder)

    # Refusals

    def _examine(self) -> Refusal | None:  # noqa: C901, PLR0911, PLR0912 - a list of rules, each with its answer
        version = self.parser.get_http_version()
        if version not in _VERSIONS:
            return _VERSION
        if self._head_too_large():
            return _HEAD_TOO_LARGE
        host: bytes | None = None
        sized = False
        for name, value in self._examined:
            if name == b"host":
                if host is not None or not (value == self._good_host or _HOST.fullmatch(value)):
                    return _HOST_INVALID
                host = self._good_host = value
            elif name == b"content-length":
                sized = value != b"0"
            elif name == b"expect":
                self.expect_100_continue = value.lower() == b"100-continue"
            else:
                refusal = self._coding_refusal(value, version)
                if refusal is not None:
                    return refusal
                sized = True
        if host is None and version == "1.1":
            return _HOST_INVALID
        if self.parser.should_upgrade():
            self._websocket = self._should_upgrade()
            self._upgrading = not self._websocket
            if sized:
                return _UPGRADE
            if self._websocket:
                return self._handshake_refusal()
        return None if self.url.startswith(b"/") else self._unusual_target(host)

    def _handshake_refusal(self) -> Refusal | None:
        if self._answering() or self.pipeline or not self.url.isascii() or not self.url.startswith(b"/"):
            return MALFORMED
        if len(self.url) > MAX_LINE or any(len(name) + len(value) > MAX_LINE for name, value in self.headers):
            return _HEAD_TOO_LARGE
        if self._shared.draining:
            return _STOPPING
        return handshake_refusal(self.parser.get_method(), self.parser.get_http_version(), self.headers)

    def _should_upgrade_to_ws(self) -> bool:
        return self._shared.websocket_app is not None

    def handle_websocket_upgrade(self) -> None:
        """Hand the connection over; this object is done with it."""
        self.connections.discard(self)
        self._unset_keepalive_if_required()
        on_lost, self._on_lost = self._on_lost, lambda: None
        websocket = GuardedWebSocket(
            self.config, self.server_state, self.loop, shared=self._shared, client=self.client, peer=self._peer, on_lost=on_lost
        )
        websocket.begin(self.transport, self.url, self.headers)
        self.transport.set_protocol(websocket)
        # The parser refers to this object, and nobody else shall.
        self.parser = None  # type: ignore[assignment]  # as in the library

    def _head_too_large(self) -> bool:
        if len(self.headers) > self._limits.head_fields:
            return True
        limit = self._limits.head_bytes
        return self._pending > limit and sum(len(name) + len(value) + 4 for name, value in self.headers) > limit

    def _coding_refusal(self, value: bytes, version: str) -> Refusal | None:
        if version == "1.0" or [entry[0] for entry in self._examined].count(b"transfer-encoding") > 1:
            return _FRAMING
        return None if value.lower() == b"chunked" else _CODING

    def _unusual_target(self, host: bytes | None) -> Refusal | None:
        if self.parser.get_method() == b"CONNECT":
            return _CONNECT
        absolute = _ABSOLUTE.fullmatch(self.url)
        if absolute is None:
            return _TARGET_INVALID
        return None if host is not None and absolute[1].lower() == host.lower() else _HOST_MISMATCH

    def _overhead(self) -> int:
        return self._raw_bytes - self._body_bytes - _PER_CHUNK * self._chunks

    def _answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete  # type: ignore[redundant-expr]  # None at first

    def _refuse(self, refusal: Refusal) -> None:
        if self._over:
            return
        if not self._answering():
            if self._in_body:
                # It was answered already; the rest of its body is of no use.
                self._cut(refusal)
            else:
                self._answer(refusal)
        elif not self._in_body:
            # An earlier request is still being answered: that answer is the last one.
            self._over = True
            self.cycle.keep_alive = False
            self._shared.metrics.cut.labels(refusal.code).inc()
        elif self.pipeline or self.cycle.response_started:
            self._cut(refusal)
        else:
            # For the application, its client is gone.
            self.cycle.disconnected = True
            self.cycle.message_event.set()
            self._answer(refusal)

    def _cut(self, refusal: Refusal) -> None:
        self._over = True
        if self.cycle is not None:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self._shared.metrics.cut.labels(refusal.code).inc()
        self.transport.close()

    def _answer(self, refusal: Refusal) -> None:
        self._over = True
        self._unset_keepalive_if_required()
        self._shared.metrics.cut.labels(refusal.code).inc()
        self.flow.resume_reading()
        self.cycle = RequestResponseCycle(
            scope=cast("HTTPScope", self._scope_of(refusal)),
            transport=cast("asyncio.Transport", _LastAnswer(self)),
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=False,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=False,
            keep_alive=False,
            on_response=lambda: None,
        )
        self.cycle.more_body = False
        self.cycle.message_event.set()
        self._start_asgi_task(self.cycle, self.app)

    def _scope_of(self, refusal: Refusal) -> dict[str, Any]:
        if self._head_since is None or not self._begun:
            # Nothing of this request is known, or it is another one's.
            self.on_message_begin()
        scope = cast("dict[str, Any]", self.scope)
        path, _, query = self.url.partition(b"?")
        # The fields stay where the head was read to its end; those that broke the limits are of no use to anybody.
        headers = [] if refusal in (_HEAD_TOO_LARGE, MALFORMED) else self.headers
        return {
            **scope,
            "method": scope.get("method", ""),
            "path": path[:200].decode("latin-1"),
            "raw_path": path[:200],
            "query_string": query[:200],
            "headers": [entry for entry in headers if entry[0] not in _EXAMINED],
            REFUSAL_KEY: refusal,
        }

    def linger(self) -> None:
        """End the connection after the last answer: nothing more is written, what still arrives is thrown away for a moment."""
        if self._lingering or self.transport.is_closing():
            return
        self._lingering = True
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.flow.resume_reading()
        self.timeout_keep_alive_task = self.loop.call_later(_LINGER_SECONDS, self.timeout_keep_alive_handler)

    def _discard(self, count: int) -> None:
        self._discarded += count
        if self._discarded > _LINGER_BYTES and self._lingering:
            self.transport.close()
