"""Takes connections in: caps, the PROXY protocol, the TLS handshake."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import ssl
from collections.abc import Callable
from typing import Protocol

from wireroom_common.logging import get_logger
from wireroom_common.runtime.http_guard import TOO_MANY_CONNECTIONS
from wireroom_common.runtime.http_limits import ListenerState, Refusal, client_group
from wireroom_common.runtime.http_proxy_protocol import Address, ProxyHeaderError, read_proxy_header

# Taken in at one go, so that a flood of connections does not starve the open ones.
_BATCH = 64
# Refused connections that get an answer; further ones are just closed.
_COURTESIES = 100
_NO_RESOURCES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_PAUSE_SECONDS = 0.5
_TLS_SHUTDOWN_SECONDS = 5.0
_log = get_logger(__name__)


class NewProtocol(Protocol):
    """Makes the protocol of one connection."""

    def __call__(self, client: Address | None, refused: Refusal | None, on_lost: Callable[[], None]) -> asyncio.BaseProtocol: ...


class Acceptor:
    """Accepts on one listening socket until `close`."""

    def __init__(
        self,
        listener: socket.socket,
        shared: ListenerState,
        protocol: NewProtocol,
        *,
        proxy_protocol: bool,
        tls: Callable[[], ssl.SSLContext] | None,
    ) -> None:
        self._listener = listener
        self._shared = shared
        self._protocol = protocol
        self._proxy_protocol = proxy_protocol
        self._tls = tls
        self._loop = asyncio.get_running_loop()
        self._admissions: set[asyncio.Task[None]] = set()
        self._closed = False
        listener.setblocking(False)
        self._loop.add_reader(listener, self._accept)

    def close(self) -> None:
        """Accept no more."""
        if not self._closed:
            self._closed = True
            self._loop.remove_reader(self._listener)
            self._listener.close()

    async def wait_closed(self) -> None:
        """Nothing is left half taken in."""
        for task in self._admissions:
            task.cancel()
        await asyncio.gather(*self._admissions, return_exceptions=True)

    def _accept(self) -> None:
        for _ in range(_BATCH):
            try:
                connection, address = self._listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in _NO_RESOURCES:
                    raise
                self._shared.metrics.cut.labels("no_resources").inc()
                _log.error("accept_failed", error=error.strerror)
                self._loop.remove_reader(self._listener)
                self._loop.call_later(_PAUSE_SECONDS, self._resume)
                return
            connection.setblocking(False)
            task = self._loop.create_task(self._admit(connection, (str(address[0]), int(address[1]))))
            self._admissions.add(task)
            task.add_done_callback(self._admissions.discard)

    def _resume(self) -> None:
        if not self._closed:
            self._loop.add_reader(self._listener, self._accept)

    async def _admit(self, connection: socket.socket, peer: Address) -> None:
        shared = self._shared
        shared.open += 1
        place = _Place(shared)
        try:
            client = await self._told_client(connection, peer) if self._proxy_protocol else None
            refused = self._too_many(place, (client or peer)[0])
            if refused is None or place.courtesy():
                await self._hand_over(connection, client, refused, place)
            else:
                shared.metrics.cut.labels("too_many_connections").inc()
        except ProxyHeaderError:
            shared.metrics.cut.labels("proxy_header").inc()
            _log.warning("proxy_header_refused", peer=peer[0])
        except TimeoutError:
            shared.metrics.cut.labels("handshake_timeout").inc()
        except (OSError, EOFError):
            # The client gave up, or does not speak TLS.
            shared.metrics.cut.labels("handshake_failed").inc()
        finally:
            if not place.handed_over:
                place.free()
            if not place.loop_owns_socket:
                connection.close()

    async def _told_client(self, connection: socket.socket, peer: Address) -> Address | None:
        if peer[0] not in self._shared.trusted:
            raise ProxyHeaderError("not a trusted proxy")
        async with asyncio.timeout(self._shared.limits.head_seconds):
            return await read_proxy_header(connection)

    def _too_many(self, place: _Place, address: str) -> Refusal | None:
        shared = self._shared
        if shared.open > shared.limits.connections:
            return TOO_MANY_CONNECTIONS
        if address not in shared.trusted and place.count(client_group(address)) > shared.limits.connections_per_client:
            return TOO_MANY_CONNECTIONS
        return None

    async def _hand_over(self, connection: socket.socket, client: Address | None, refused: Refusal | None, place: _Place) -> None:
        context = self._tls() if self._tls is not None else None
        with contextlib.suppress(OSError):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        place.loop_owns_socket = True
        await self._loop.connect_accepted_socket(
            lambda: self._protocol(client, refused, place.free),
            connection,
            ssl=context,
            ssl_handshake_timeout=self._shared.limits.tls_handshake_seconds if context else None,
            ssl_shutdown_timeout=_TLS_SHUTDOWN_SECONDS if context else None,
        )
        place.handed_over = True


class _Place:
    """What one connection takes up of the caps; given back once."""

    def __init__(self, shared: ListenerState) -> None:
        self._shared = shared
        self._group = ""
        self._courtesy = False
        self._freed = False
        self.loop_owns_socket = self.handed_over = False
        shared.metrics.connections.inc()

    def count(self, group: str) -> int:
        """Take a place of the group; returns how many it has."""
        self._group = group
        self._shared.by_client[group] += 1
        return self._shared.by_client[group]

    def courtesy(self) -> bool:
        """Whether a refused connection gets an answer."""
        if self._shared.courtesies >= _COURTESIES:
            return False
        self._shared.courtesies += 1
        self._courtesy = True
        return True

    def free(self) -> None:
        """The connection is gone."""
        if self._freed:
            return
        self._freed = True
        shared = self._shared
        shared.open -= 1
        shared.metrics.connections.dec()
        if self._courtesy:
            shared.courtesies -= 1
        if self._group:
            shared.by_client[self._group] -= 1
            if shared.by_client[self._group] <= 0:
                del shared.by_client[self._group]
