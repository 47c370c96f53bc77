"""What a process offers its services. The only file that chooses by URL scheme."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

import grpc.aio
from opentelemetry import trace
from prometheus_client import CollectorRegistry
from redis.asyncio import BlockingConnectionPool, Redis

from wireroom_common.bus import Bus, Catalogue
from wireroom_common.bus.amqp import AmqpBus
from wireroom_common.bus.delivery import BusMetrics, Deliverer
from wireroom_common.bus.local import LocalBus
from wireroom_common.cache import Caches
from wireroom_common.clock import Clock
from wireroom_common.db import Database, DatabaseUrl
from wireroom_common.errors import OperatorError
from wireroom_common.logging import get_logger
from wireroom_common.rpc import (
    CallGuard,
    ClientMetrics,
    LocalNetwork,
    PrincipalSigner,
    PrincipalVerifier,
    ServerMetrics,
    ServiceChannel,
    ensure_key,
    grpc_server,
    load_key,
    load_trusted,
    open_channel,
)
from wireroom_common.rpc.server import Health as GrpcHealth
from wireroom_common.runtime.secrets import master_secret
from wireroom_common.runtime.service import Service
from wireroom_common.runtime.settings import RuntimeSettings

_LOCAL = "local:"
_EMBEDDED = "embedded:"
_REDIS_CONNECTIONS = 50

_log = get_logger("wireroom.process")


class ProcessInfra:
    """The servers and connections of one process, shared by its roles."""

    def __init__(
        self,
        settings: RuntimeSettings,
        catalogue: Catalogue,
        *,
        registry: CollectorRegistry,
        clock: Clock,
        announce: Callable[[str], None],
    ) -> None:
        self.settings = settings
        self.registry = registry
        self.clock = clock
        self.announce = announce
        # True from the moment the process was told to stop.
        self.draining = False
        self.tracer = trace.get_tracer("wireroom")
        deliverer = Deliverer(catalogue, BusMetrics(registry), clock)
        bus_url = settings.bus_url.get_secret_value()
        self.bus: Bus = LocalBus(catalogue, deliverer) if bus_url == _LOCAL else AmqpBus(bus_url, catalogue, deliverer)
        self._keys_dir = settings.principal_keys_dir or settings.data_dir / "principal-keys"
        self._network = LocalNetwork()
        self._server_metrics = ServerMetrics(registry)
        self._client_metrics = ClientMetrics(registry)
        self._databases: dict[str, Database] = {}
        self._redis: Redis | None = None
        self._caches: Caches | None = None
        self._channels: list[ServiceChannel] = []
        self._servers: dict[str, grpc.aio.Server] = {}
        self._grpc_health: list[GrpcHealth] = []
        self._signers: dict[str, PrincipalSigner] = {}

    def for_role(self, role: str) -> RoleInfra:
        """The view of one role; its key is made here if the keys are this process's own."""
        return RoleInfra(self, role)

    def database(self, service: str) -> Database:
        """One `Database` per service."""
        if service not in self._databases:
            password = self.settings.database_password.get_secret_value() if self.settings.database_password else None
            self._databases[service] = Database(
                DatabaseUrl.parse(self.settings.database_url, password),
                service,
                pool_size=self.settings.database_pool_size,
                max_overflow=self.settings.database_max_overflow,
            )
        return self._databases[service]

    def redis(self) -> Redis:
        """One client for the process."""
        if self._redis is None:
            pool = BlockingConnectionPool.from_url(
                self.settings.redis_url.get_secret_value(),
                max_connections=_REDIS_CONNECTIONS,
                timeout=5,
                socket_timeout=5,
                socket_connect_timeout=2,
                health_check_interval=30,
            )
            self._redis = Redis.from_pool(pool)
        return self._redis

    def caches(self) -> Caches:
        """One set of caches for the process."""
        if self._caches is None:
            # A process of one role that needs no Redis may have been given none.
            given = self.settings.redis_url.get_secret_value() != _EMBEDDED
            if not given:
                _log.warning(
                    "caches_without_redis",
                    off="Cached values are kept in the memory of this process only, and those that must be dropped in all processes at once"
                    " (such as lists of articles) are not kept at all.",
                    advice="Set WIREROOM_REDIS_URL.",
                )
            self._caches = Caches(self.redis() if given else None, self.clock, self.registry)
        return self._caches

    def start_caches(self) -> None:
        """Begin to hear what other replicas invalidate, if a service has opened a cache."""
        if self._caches is not None:
            self._caches.start()

    def channel(self, role: str, service: str) -> grpc.aio.Channel:
        """A channel that signs as `role`."""
        url = self.settings.rpc_url(service)
        target = f"{_LOCAL}{service}" if url == _LOCAL else url
        signer = self.signer(role)
        inner = open_channel(target, self._network, multiplexed=self.settings.rpc_multiplexed, signer=signer)
        channel = ServiceChannel(inner, signer=signer, metrics=self._client_metrics, tracer=self.tracer)
        self._channels.append(channel)
        return channel

    def signer(self, role: str) -> PrincipalSigner:
        """The signer of `role`. Keys are made only where the folder is this installation's own data directory."""
        if role not in self._signers:
            given = self.settings.principal_keys_dir is not None
            key = load_key(self._keys_dir, role) if given else ensure_key(self._keys_dir, role)
            self._signers[role] = PrincipalSigner(role, key, self.clock)
        return self._signers[role]

    async def rpc_server(self, service: Service) -> grpc.aio.Server:
        """The server of `service`, not yet started: in process, or listening where the settings say."""
        verifier = PrincipalVerifier(load_trusted(self._keys_dir), self.clock, reload=lambda: load_trusted(self._keys_dir))
        guard = CallGuard(verifier=verifier, metrics=self._server_metrics, tracer=self.tracer, public_rpcs=service.public_rpcs)
        listen = self.settings.rpc_listen
        server: grpc.aio.Server
        if listen == _LOCAL:
            server = self._network.server(service.name, interceptors=(guard,))
        else:
            address = listen.removeprefix("grpc:").removeprefix("//")
            server = grpc_server(guard)
            self._grpc_health.append(await GrpcHealth.attach(server))
            if server.add_insecure_port(address) == 0 and not address.startswith("unix:"):
                raise OperatorError(f"Cannot listen on {address}.")
        self._servers[service.name] = server
        return server

    async def start_rpc(self, service: str) -> None:
        """Start the server of `service`."""
        await self._servers[service].start()

    async def report_ready(self, ready: bool) -> None:  # noqa: FBT001 - the name says what the value means
        """What grpc.health.v1 answers."""
        for health in self._grpc_health:
            await health.set_ready(ready)

    async def stop_rpc(self) -> None:
        """Let running calls finish within the drain time."""
        for health in self._grpc_health:
            await health.shut_down()
        await asyncio.gather(*(server.stop(self.settings.drain_timeout) for server in self._servers.values()))

    async def close(self) -> None:
        """Close channels, Redis and databases."""
        for channel in self._channels:
            with contextlib.suppress(Exception):
                await channel.close()
        if self._caches is not None:
            await self._caches.stop()
        if self._redis is not None:
            await self._redis.aclose()
        for database in self._databases.values():
            await database.close()


class RoleInfra:
    """`Infra` for one role."""

    def __init__(self, process: ProcessInfra, role: str) -> None:
        self._process = process
        self._role = role
        # The verifiers of the others must know this role before it makes its first call.
        process.signer(role)

    @property
    def registry(self) -> CollectorRegistry:
        return self._process.registry

    @property
    def clock(self) -> Clock:
        return self._process.clock

    def database(self, service: str) -> Database:
        return self._process.database(service)

    def redis(self) -> Redis:
        return self._process.redis()

    def caches(self) -> Caches:
        return self._process.caches()

    def channel(self, service: str) -> grpc.aio.Channel:
        return self._process.channel(self._role, service)

    def data_dir(self, service: str) -> str:
        path = (self._process.settings.data_dir / service).resolve()
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        return str(path)

    def secret(self, name: str) -> bytes:
        if name != "master":
            raise ValueError(f"There is no secret '{name}'.")
        return master_secret(self._process.settings)

    def draining(self) -> bool:
        """Whether the process was told to stop: it must no longer call itself ready."""
        return self._process.draining

    def public_url(self) -> str:
        """The address under which clients reach the gateway, without a trailing slash."""
        return self._process.settings.public_url.rstrip("/")

    def announce(self, message: str) -> None:
        self._process.announce(message)
