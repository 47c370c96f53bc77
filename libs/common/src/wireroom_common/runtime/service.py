"""What a service declares. `build(settings, infra)` returns a `Service` and opens nothing by itself."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import grpc.aio
from prometheus_client import CollectorRegistry
from redis.asyncio import Redis

from wireroom_common.bus import Subscription
from wireroom_common.cache import Caches
from wireroom_common.clock import Clock
from wireroom_common.db import Database
from wireroom_common.runtime.http_limits import HttpLimits, WebSocketLimits

# `add_<Service>Servicer_to_server` as generated, bound to its servicer by the service: register(server) adds it.
RpcRegistration = Callable[[grpc.aio.Server], None]
Check = Callable[[], Awaitable[None]]


@dataclass(frozen=True)
class Periodic:
    """Work that repeats: `run` is called again `interval` seconds after it returned.

    An exception is logged and counted, never fatal.

    What must run once over all replicas takes its lease in the database inside `run`.
    """

    name: str
    interval: float
    run: Callable[[], Awaitable[None]]


@dataclass(frozen=True)
class HttpApp:
    """An ASGI application and where it listens. `tls_port` 0 means no HTTPS; port 0 picks a free one.

    A request that the listener refuses reaches the application with a `Refusal` in its scope (see `http_limits`), to be rendered.
    """

    app: Any
    host: str
    port: int
    tls_port: int = 0
    tls_cert: str = ""
    tls_key: str = ""
    limits: HttpLimits = field(default_factory=HttpLimits)
    # Addresses and networks.
    trusted_proxies: tuple[str, ...] = ()
    # Connections begin with a header of the PROXY protocol, and come from trusted proxies only.
    proxy_protocol: bool = False
    # For WebSockets: the application that gets their scopes. None: there are none, an upgrade is ignored.
    websocket_app: Any = None
    websocket_limits: WebSocketLimits = field(default_factory=WebSocketLimits)


@dataclass(frozen=True)
class Service:
    """Everything the runtime has to run. Order: `start` → rpc, subscriptions, periodic → http; reversed at the end."""

    name: str
    rpc: Sequence[RpcRegistration] = ()
    http: HttpApp | None = None
    subscriptions: Sequence[Subscription] = ()
    periodic: Sequence[Periodic] = ()
    # Readiness: name → coroutine that raises when the dependency is not usable. Each is run with a time limit.
    checks: Mapping[str, Check] = field(default_factory=dict)
    start: Callable[[], Awaitable[None]] | None = None
    stop: Callable[[], Awaitable[None]] | None = None
    # The database whose outbox the runtime relays; None for a service without events of its own.
    database: Database | None = None
    # rpc methods that may be called with an anonymous principal, full names "/package.Service/Method".
    public_rpcs: frozenset[str] = frozenset()


class Infra(Protocol):
    """What the runtime hands to `build`. Which kind of server stands behind each is the runtime's business."""

    @property
    def registry(self) -> CollectorRegistry:
        """The process's one metrics registry."""

    @property
    def clock(self) -> Clock:
        """The process's clock."""

    def database(self, service: str) -> Database:
        """The service's database roles."""

    def redis(self) -> Redis:
        """A client with a waiting pool (decode_responses=False)."""

    def caches(self) -> Caches:
        """The process's caches, to open namespaces in while the service is built; the runtime starts and stops them."""

    def channel(self, service: str) -> grpc.aio.Channel:
        """A channel to another service that the generated stubs accept.

        Calls carry the current principal, the trace and a deadline (`timeout=` of the call, else the default of 10 s), and raise
        `WireroomError`, never `grpc.RpcError`.
        """

    def data_dir(self, service: str) -> str:
        """A folder for files of this service (created, private)."""

    def secret(self, name: str) -> bytes:
        """A secret of this installation by name ("master"): from settings, else made once and kept (mode 0600) where allowed."""

    def draining(self) -> bool:
        """Whether the process was told to stop: it must no longer call itself ready."""

    def public_url(self) -> str:
        """The address under which clients reach the gateway, without a trailing slash."""

    def announce(self, message: str) -> None:
        """Show one message to the operator on first start (the one-time admin token)."""
