"""HTTP and HTTPS for one ASGI application: uvicorn servers that leave signals to the process."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import resource
import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import uvicorn
from prometheus_client import CollectorRegistry

from wireroom_common.clock import Clock
from wireroom_common.errors import OperatorError
from wireroom_common.logging import get_logger
from wireroom_common.runtime.http_accept import Acceptor
from wireroom_common.runtime.http_answer import ShortAnswers
from wireroom_common.runtime.http_guard import GuardedProtocol
from wireroom_common.runtime.http_limits import HttpMetrics, ListenerState, Refusal, TrustedProxies
from wireroom_common.runtime.http_proxy_protocol import Address
from wireroom_common.runtime.http_tls import TlsIdentity, self_signed
from wireroom_common.runtime.http_websocket import GuardedWebSocket
from wireroom_common.runtime.service import HttpApp

_BACKLOG = 2048
# Looked at so often; uvicorn ticks ten times as often.
_SWEEP_SECONDS = 1.0
_CERTIFICATE_SECONDS = 2.0
# For everything in the process that is no HTTP connection: databases, Redis, files.
_OTHER_FILES = 256
_log = get_logger(__name__)


class _Server(uvicorn.Server):
    """One listener. Takes connections in by itself, sweeps them, and looks whether the certificate changed."""

    def __init__(
        self, config: uvicorn.Config, shared: ListenerState, *, proxy_protocol: bool, identity: TlsIdentity | None, sweep: float
    ) -> None:
        super().__init__(config)
        self._shared = shared
        self._proxy_protocol = proxy_protocol
        self._identity = identity
        self._sweep = sweep
        self._swept = self._looked = 0.0

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await self.lifespan.startup()
        identity = self._identity
        acceptor = Acceptor(
            (sockets or [])[0],
            self._shared,
            self._protocol,
            proxy_protocol=self._proxy_protocol,
            tls=None if identity is None else (lambda: identity.context),
        )
        # The library closes its servers, and waits for them, by these two methods.
        self.servers = [acceptor]  # type: ignore[list-item]  # see above
        self._swept = self._looked = asyncio.get_running_loop().time()
        self.started = True

    def _protocol(self, client: Address | None, refused: Refusal | None, on_lost: Callable[[], None]) -> GuardedProtocol:
        return GuardedProtocol(
            self.config,
            self.server_state,
            {},
            asyncio.get_running_loop(),
            shared=self._shared,
            client=client,
            refused=refused,
            on_lost=on_lost,
        )

    async def on_tick(self, counter: int) -> bool:
        now = asyncio.get_running_loop().time()
        elapsed = now - self._swept
        if elapsed >= self._sweep:
            self._swept = now
            self.sweep(now, elapsed)
        if self._identity is not None and now - self._looked >= _CERTIFICATE_SECONDS:
            self._looked = now
            self._identity.reload_if_changed()
        return await super().on_tick(counter)

    def sweep(self, now: float, elapsed: float) -> None:
        """Hold all connections against their deadlines."""
        for connection in list(self.server_state.connections):
            if isinstance(connection, (GuardedProtocol, GuardedWebSocket)):
                # A machine that slept or a loop that was held up must not cost the clients their time.
                connection.sweep(now, min(elapsed, 5 * self._sweep))

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        sweeping = asyncio.create_task(self._keep_sweeping(), name="http-sweep")
        try:
            await super().shutdown(sockets)
        finally:
            sweeping.cancel()
            await asyncio.gather(sweeping, return_exceptions=True)

    async def _keep_sweeping(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            before = loop.time()
            await asyncio.sleep(self._sweep)
            self.sweep(loop.time(), loop.time() - before)


class HttpServers:
    """The listeners of one `HttpApp`. `start` returns once they accept connections."""

    def __init__(
        self,
        http: HttpApp,
        *,
        certificate_dir: Path,
        clock: Clock,
        drain_timeout: float,
        registry: CollectorRegistry | None = None,
    ) -> None:
        """`registry` None: what the listeners count is not shown."""
        self._http = http
        self._certificate_dir = certificate_dir
        self._clock = clock
        self._drain_timeout = drain_timeout
        self._servers: list[_Server] = []
        limits = replace(http.limits, connections=_affordable(http.limits.connections))
        self._shared = ListenerState(
            limits,
            HttpMetrics(registry or CollectorRegistry()),
            TrustedProxies(http.trusted_proxies),
            websocket_app=http.websocket_app,
            websocket_limits=http.websocket_limits,
        )
        self.tasks: list[asyncio.Task[None]] = []

    async def start(self) -> list[str]:
        """Listen; returns the base URLs."""
        urls = [await self._listen("http", self._http.port, None)]
        if self._http.tls_port:
            cert, key = self._http.tls_cert, self._http.tls_key
            if not cert:
                cert, key = self_signed(self._certificate_dir, self._clock)
            urls.append(await self._listen("https", self._http.tls_port, TlsIdentity(cert, key)))
        return urls

    async def _listen(self, scheme: str, port: int, identity: TlsIdentity | None) -> str:
        try:
            listener = socket.create_server(
                (self._http.host, port), family=socket.AF_INET6 if ":" in self._http.host else socket.AF_INET, backlog=_BACKLOG
            )
        except OSError as error:
            detail = error.strerror or type(error).__name__
            raise OperatorError(f"Cannot listen on {self._http.host}:{port} for {scheme}: {detail}.") from error
        address = listener.getsockname()
        config = uvicorn.Config(
            ShortAnswers(self._http.app),
            loop="none",
            # The class itself is what `Acceptor` makes; the name has to be one that the library knows.
            http="httptools",
            # `GuardedProtocol` hands over to `GuardedWebSocket` by itself.
            ws="none",
            ws_max_size=self._http.websocket_limits.message_bytes,
            ws_ping_interval=self._http.websocket_limits.ping_seconds,
            ws_ping_timeout=self._http.websocket_limits.pong_seconds,
            # A compressed message is small until it is read, and the compressor's memory would be most of a connection's.
            ws_per_message_deflate=False,
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            date_header=True,
            proxy_headers=False,
            timeout_keep_alive=int(self._shared.limits.idle_seconds),
            timeout_graceful_shutdown=int(self._drain_timeout),
            backlog=_BACKLOG,
        )
        config.load()
        limits = self._shared.limits
        shortest = min(limits.head_seconds, limits.body_grace_seconds, limits.read_grace_seconds)
        server = _Server(
            config,
            self._shared,
            proxy_protocol=self._http.proxy_protocol,
            identity=identity,
            sweep=min(_SWEEP_SECONDS, shortest / 4),
        )
        task = asyncio.create_task(server.serve(sockets=[listener]), name=f"{scheme}-server")
        while not server.started and not task.done():  # noqa: ASYNC110 - the library offers no event to wait for
            await asyncio.sleep(0.005)
        self._servers.append(server)
        self.tasks.append(task)
        host = "127.0.0.1" if self._http.host in {"0.0.0.0", "::"} else self._http.host  # noqa: S104 - compared, not bound
        return f"{scheme}://{f'[{host}]' if ':' in host else host}:{address[1]}"

    def drain(self) -> None:
        """From here on each answer ends its connection; connections are still accepted."""
        self._shared.draining = True

    async def stop(self) -> None:
        """Refuse new connections, let requests and streams finish within the drain time, close."""
        self.drain()
        for server in self._servers:
            server.should_exit = True
        await asyncio.gather(*self.tasks, return_exceptions=True)


@functools.cache
def _file_limit(wanted: int) -> int:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return wanted
    raised = wanted if hard == resource.RLIM_INFINITY else min(hard, wanted)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (raised, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def _affordable(connections: int) -> int:
    """The cap, lowered to what the operating system lets the process have open. Asks for more first."""
    files = _file_limit(connections + _OTHER_FILES)
    if files - _OTHER_FILES >= connections:
        return connections
    affordable = max(1, files - _OTHER_FILES, files // 2)
    _log.warning("connections_capped", wanted=connections, cap=affordable, open_files=files)
    return affordable
