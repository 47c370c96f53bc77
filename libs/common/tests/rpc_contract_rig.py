"""One served service and channels of every kind to it, for the tests of what channels promise."""

from __future__ import annotations

import asyncio
import contextlib
import enum
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import grpc
import grpc.aio
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import CollectorRegistry

from wireroom_common.clock import SystemClock
from wireroom_common.errors import WireroomError
from wireroom_common.principal import Principal, PrincipalKind, current_principal, set_current_principal
from wireroom_common.rpc import (
    CallGuard,
    ClientMetrics,
    LocalNetwork,
    PrincipalSigner,
    PrincipalVerifier,
    ServerMetrics,
    ServiceChannel,
    grpc_server,
    open_channel,
)
from wireroom_protos.auth.v1 import auth_pb2, auth_pb2_grpc
from wireroom_protos.chat.v1 import chat_pb2_grpc
from wireroom_protos.rag.v1 import rag_pb2_grpc

USER = Principal(
    PrincipalKind.USER, subject=str(uuid4()), tenant_id=uuid4(), roles=frozenset({"member"}), permissions=frozenset({"chat"})
)
LOGIN = "/wireroom_protos.auth.v1.AuthService/Login"
ECHO = "/test.Echo/Talk"
MIB = 1024 * 1024

Handler = Callable[[Any, Any], Any]


class Kind(enum.Enum):
    """The channels of which the contract holds."""

    LOCAL = "local"
    GRPC = "grpc"
    MULTIPLEXED = "multiplexed"


def serve(
    kind: Kind, guard: CallGuard, network: LocalNetwork, folder: Path, name: str = "suite", **limits: Any
) -> tuple[grpc.aio.Server, str]:
    """A server that is not started yet, and its target."""
    if kind is Kind.LOCAL:
        return network.server(name, interceptors=(guard,), **limits), f"local:{name}"
    server = grpc_server(guard, **limits)
    server.add_insecure_port(f"unix:{folder}/{name}.sock")
    return server, f"grpc:unix:{folder}/{name}.sock"


def connect(kind: Kind, target: str, network: LocalNetwork, signer: PrincipalSigner | None = None) -> grpc.aio.Channel:
    """A bare channel of this kind; with a signer its streams say at once who they are."""
    return open_channel(target, network, multiplexed=kind is Kind.MULTIPLEXED, signer=signer)


@dataclass
class Roles:
    """A key for each process role, all known to the one verifier."""

    clock: SystemClock = field(default_factory=SystemClock)
    keys: dict[str, Ed25519PrivateKey] = field(
        default_factory=lambda: {name: Ed25519PrivateKey.generate() for name in ("gateway", "chat", "rag")}
    )

    def signer(self, issuer: str, **options: Any) -> PrincipalSigner:
        return PrincipalSigner(issuer, self.keys[issuer], self.clock, **options)

    def verifier(self) -> PrincipalVerifier:
        return PrincipalVerifier({name: [key.public_key()] for name, key in self.keys.items()}, self.clock)


class Servicers(auth_pb2_grpc.AuthServiceServicer, chat_pb2_grpc.InferenceServiceServicer, rag_pb2_grpc.DocumentServiceServicer):
    """One behaviour per shape, set by each test."""

    def __init__(self) -> None:
        self.login: Handler | None = None
        self.get_me: Handler | None = None
        self.stream: Handler | None = None
        self.upload: Handler | None = None
        self.talk: Handler | None = None

    async def Login(self, request: Any, context: Any) -> Any:  # noqa: N802 - name of the rpc
        return await self.login(request, context)

    async def GetMe(self, request: Any, context: Any) -> Any:  # noqa: N802 - name of the rpc
        return await self.get_me(request, context)

    async def StreamComplete(self, request: Any, context: Any) -> AsyncIterator[Any]:  # noqa: N802 - name of the rpc
        async for response in self.stream(request, context):
            yield response

    async def UploadDocument(self, request_iterator: Any, context: Any) -> Any:  # noqa: N802 - name of the rpc
        return await self.upload(request_iterator, context)

    async def echo(self, requests: Any, context: Any) -> AsyncIterator[bytes]:
        async for response in self.talk(requests, context):
            yield response


@dataclass
class Rig:
    """One served service and the means to reach it as several roles."""

    kind: Kind
    roles: Roles
    servicers: Servicers
    network: LocalNetwork
    target: str
    registry: CollectorRegistry
    spans: InMemorySpanExporter
    stop: Callable[[float | None], Awaitable[None]]
    channels: list[ServiceChannel] = field(default_factory=list)
    tracer: Any = None
    client_metrics: Any = None

    def channel(self, issuer: str = "gateway", *, target: str = "", **options: Any) -> ServiceChannel:
        signer = options.pop("signer", None) or self.roles.signer(issuer)
        channel = ServiceChannel(self.bare(target), signer=signer, metrics=self.client_metrics, tracer=self.tracer, **options)
        self.channels.append(channel)
        return channel

    def bare(self, target: str = "") -> grpc.aio.Channel:
        return connect(self.kind, target or self.target, self.network)

    def auth(self, issuer: str = "gateway", **options: Any) -> Any:
        return auth_pb2_grpc.AuthServiceStub(self.channel(issuer, **options))

    def chat(self) -> Any:
        return chat_pb2_grpc.InferenceServiceStub(self.channel())

    def documents(self) -> Any:
        return rag_pb2_grpc.DocumentServiceStub(self.channel())

    def talk(self) -> Any:
        return self.channel().stream_stream(ECHO)

    def count(self, side: str, method: str, kind: str) -> float:
        return sum(
            sample.value
            for metric in self.registry.collect()
            for sample in metric.samples
            if sample.name == f"wireroom_rpc_{side}_calls_total"
            and sample.labels["method"] == method
            and sample.labels["kind"] == kind
        )


@contextlib.asynccontextmanager
async def opened(kind: Kind, folder: Path) -> AsyncIterator[Rig]:
    """A rig with one channel that is connected; the caller is USER."""
    roles, servicers, network, registry = Roles(), Servicers(), LocalNetwork(), CollectorRegistry()
    spans = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    tracer = provider.get_tracer("test")
    guard = CallGuard(
        verifier=roles.verifier(),
        metrics=ServerMetrics(registry),
        tracer=tracer,
        public_rpcs=frozenset({LOGIN}),
        unary_deadline=1.0,
    )
    server, target = serve(kind, guard, network, folder)
    auth_pb2_grpc.add_AuthServiceServicer_to_server(servicers, server)
    chat_pb2_grpc.add_InferenceServiceServicer_to_server(servicers, server)
    rag_pb2_grpc.add_DocumentServiceServicer_to_server(servicers, server)
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("test.Echo", {"Talk": grpc.stream_stream_rpc_method_handler(servicers.echo)}),)
    )
    await server.start()
    metrics = ClientMetrics(registry)
    made = Rig(kind, roles, servicers, network, target, registry, spans, server.stop, tracer=tracer, client_metrics=metrics)
    # Channels of one target share its connection: short deadlines below are about calls, not about connecting.
    await made.channel().channel_ready()
    set_current_principal(USER)
    try:
        yield made
    finally:
        set_current_principal(None)
        for channel in made.channels:
            await channel.close()
        await server.stop(0)


class Witness:
    """Notes that a servicer began, and that it was cancelled."""

    def __init__(self) -> None:
        self.began = asyncio.Event()
        self.cancelled = asyncio.Event()

    async def wait_for_ever(self) -> None:
        self.began.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise

    async def saw_cancellation(self) -> None:
        async with asyncio.timeout(5):
            await self.cancelled.wait()


def user(principal: Principal) -> auth_pb2.GetMeResponse:
    return auth_pb2.GetMeResponse(user=auth_pb2.User(id=principal.subject, tenant_id=str(principal.tenant_id or "")))


async def who_am_i(_request: Any, _context: Any) -> Any:
    return user(current_principal())


async def failure_of(awaitable: Any) -> WireroomError:
    with pytest.raises(WireroomError) as caught:
        await awaitable
    return caught.value
