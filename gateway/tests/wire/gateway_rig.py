"""A whole gateway on a real socket; only the services behind it are the test's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import aiohttp
import grpc.aio
from gateway_neighbours import PUBLIC, SERVICES, Neighbours
from gateway_tokens import TENANT, Issuer
from google.protobuf.message import Message
from opentelemetry.trace import NoOpTracer
from prometheus_client import CollectorRegistry
from redis.asyncio import BlockingConnectionPool, Redis

from wireroom_common.bus import Catalogue
from wireroom_common.bus.catalogue import event_type
from wireroom_common.bus.delivery import BusMetrics, Deliverer
from wireroom_common.bus.envelope import Envelope
from wireroom_common.bus.local import LocalBus
from wireroom_common.clock import Clock, SystemClock
from wireroom_common.rpc import (
    CallGuard,
    ClientMetrics,
    LocalNetwork,
    PrincipalSigner,
    PrincipalVerifier,
    ServerMetrics,
    ServiceChannel,
    ensure_key,
    load_trusted,
    open_channel,
)
from wireroom_common.runtime.http import HttpServers
from wireroom_common.runtime.service import Service
from wireroom_gateway.app import build
from wireroom_gateway.settings import GatewaySettings
from wireroom_protos.auth.v1 import auth_pb2
from wireroom_protos.events.v1 import events_pb2

# Nothing listens there.
NO_REDIS = "redis://127.0.0.1:1/0"


class RigInfra:
    """What the runtime would hand to the gateway."""

    def __init__(self, network: LocalNetwork, key_dir: Path, redis_url: str, clock: Clock) -> None:
        self.registry = CollectorRegistry()
        self.clock = clock
        self.told_to_stop = False
        self.channels: list[ServiceChannel] = []
        self._network = network
        self._signer = PrincipalSigner("gateway", ensure_key(key_dir, "gateway"), self.clock)
        self._metrics = ClientMetrics(self.registry)
        self._redis = new_redis(redis_url)

    def database(self, service: str) -> Any:
        raise AssertionError(f"The gateway has no database ({service}).")

    def redis(self) -> Redis:
        return self._redis

    def channel(self, service: str) -> grpc.aio.Channel:
        inner = open_channel(f"local:{service}", self._network)
        channel = ServiceChannel(inner, signer=self._signer, metrics=self._metrics, tracer=NoOpTracer())
        self.channels.append(channel)
        return channel

    def data_dir(self, service: str) -> str:
        raise AssertionError(f"{service} keeps no files.")

    def secret(self, name: str) -> bytes:
        raise AssertionError(f"The secret {name} is not needed.")

    def draining(self) -> bool:
        return self.told_to_stop

    def public_url(self) -> str:
        return "http://127.0.0.1:8000"

    def announce(self, message: str) -> None:
        raise AssertionError(message)


def new_redis(url: str) -> Redis:
    pool = BlockingConnectionPool.from_url(url, max_connections=50, timeout=5, socket_timeout=5, socket_connect_timeout=2)
    return Redis(connection_pool=pool)


@dataclass
class Rig:
    """`urls`: the HTTP address, and the HTTPS one if there is any."""

    service: Service
    settings: GatewaySettings
    infra: RigInfra
    neighbours: Neighbours
    issuer: Issuer
    bus: LocalBus
    urls: list[str]
    session: aiohttp.ClientSession
    servers: HttpServers

    @property
    def url(self) -> str:
        return self.urls[0]

    def bearer(self, *permissions: str, **claims: Any) -> dict[str, str]:
        """The header of a user with `permissions`."""
        return {"authorization": f"Bearer {self.issuer.token(*permissions, **claims)}"}

    async def publish(self, payload: Message) -> None:
        """Send an event over the bus; returns when it was delivered."""
        name = event_type(payload)
        data = payload.SerializeToString()
        await self.bus.publish([Envelope(uuid4(), "auth", name, datetime.now(UTC), "", data, tenant_id=TENANT)])

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A bare connection."""
        address = urlsplit(self.url)
        return await asyncio.open_connection(address.hostname, address.port)

    def head(self, method: str, path: str, **headers: str) -> bytes:
        """The head of a request, for a bare connection."""
        lines = [f"{method} {path} HTTP/1.1", f"host: {urlsplit(self.url).netloc}"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        return ("\r\n".join(lines) + "\r\n\r\n").encode()


@asynccontextmanager
async def running(
    folder: Path, *, redis_url: str = "", clock: Clock | None = None, answers: dict[str, Any] | None = None, **settings: Any
) -> AsyncIterator[Rig]:
    """Start everything. Without `redis_url` there are no limits; `answers` hold from the start on."""
    chosen = GatewaySettings(**{"port": 0, "tls_port": 0, "limits_enabled": bool(redis_url), **settings})
    neighbours, issuer, network = Neighbours(), Issuer(), LocalNetwork()

    async def jwks(_request: Any) -> auth_pb2.GetJwksResponse:
        return auth_pb2.GetJwksResponse(jwks_json=issuer.jwks())

    neighbours.answers |= {"GetJwks": jwks, **(answers or {})}
    async with AsyncExitStack() as stack:
        infra = RigInfra(network, folder / "keys", redis_url or NO_REDIS, clock or SystemClock())
        stack.push_async_callback(infra.redis().aclose)
        trusted = load_trusted(folder / "keys")
        guard = CallGuard(
            verifier=PrincipalVerifier(trusted, infra.clock),
            metrics=ServerMetrics(infra.registry),
            tracer=NoOpTracer(),
            public_rpcs=PUBLIC,
        )
        for name in SERVICES:
            server = network.server(name, interceptors=(guard,))
            neighbours.register(name, server)
            await server.start()
            stack.push_async_callback(server.stop, 0)
        service = build(chosen, infra)
        for channel in infra.channels:
            stack.push_async_callback(channel.close)
        # Work queues belong to services that do not run here.
        events = Catalogue.from_files(events_pb2.DESCRIPTOR).events
        catalogue = Catalogue({name: replace(spec, consumers=frozenset()) for name, spec in events.items()})
        bus = LocalBus(catalogue, Deliverer(catalogue, BusMetrics(infra.registry), infra.clock))
        await bus.start(service.subscriptions)
        stack.push_async_callback(bus.stop)
        assert service.stop is not None
        stack.push_async_callback(service.stop)
        await service.periodic[0].run()
        assert service.http is not None
        servers = HttpServers(
            service.http, certificate_dir=folder / "tls", clock=infra.clock, drain_timeout=2, registry=infra.registry
        )
        urls = await servers.start()
        stack.push_async_callback(servers.stop)
        session = await stack.enter_async_context(aiohttp.ClientSession(base_url=urls[0], timeout=aiohttp.ClientTimeout(30)))
        yield Rig(service, chosen, infra, neighbours, issuer, bus, urls, session, servers)
