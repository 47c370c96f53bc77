"""Whoever reaches the port of a server without a signature: refused unread, and never in the way of signed calls."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from opentelemetry.trace import NoOpTracer
from prometheus_client import CollectorRegistry
from rpc_contract_rig import USER, Kind, Roles, Servicers, connect, failure_of, who_am_i

from wireroom_common.errors import ErrorKind
from wireroom_common.principal import set_current_principal
from wireroom_common.rpc import CallGuard, ClientMetrics, Health, LocalNetwork, ServerMetrics, ServiceChannel, grpc_server
from wireroom_common.testing import eventually
from wireroom_protos.auth.v1 import auth_pb2, auth_pb2_grpc
from wireroom_protos.common.v1 import multiplex_pb2, multiplex_pb2_grpc

GET_ME = "/wireroom_protos.auth.v1.AuthService/GetMe"


@dataclass
class Served:
    """A server on a TCP port, and how to reach it as a stranger and as the gateway."""

    port: int
    roles: Roles
    servicers: Servicers
    server: Any

    def stranger(self) -> grpc.aio.Channel:
        options = (("grpc.use_local_subchannel_pool", 1),)
        return grpc.aio.insecure_channel(f"127.0.0.1:{self.port}", options=options)

    def signed(self, kind: Kind) -> ServiceChannel:
        signer = self.roles.signer("gateway")
        inner = connect(kind, f"grpc://127.0.0.1:{self.port}", LocalNetwork(), signer)
        return ServiceChannel(inner, signer=signer, metrics=ClientMetrics(CollectorRegistry()), tracer=NoOpTracer())


@contextlib.asynccontextmanager
async def served(**limits: Any) -> AsyncIterator[Served]:
    roles, servicers = Roles(), Servicers()
    servicers.get_me = who_am_i
    guard = CallGuard(verifier=roles.verifier(), metrics=ServerMetrics(CollectorRegistry()), tracer=NoOpTracer())
    server = grpc_server(guard, **limits)
    await Health.attach(server)
    auth_pb2_grpc.add_AuthServiceServicer_to_server(servicers, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    set_current_principal(USER)
    try:
        yield Served(port, roles, servicers, server)
    finally:
        set_current_principal(None)
        await server.stop(0)


async def code_of(call: Any) -> grpc.StatusCode:
    """How the call ended, after what came before that was read."""
    async with asyncio.timeout(10):
        if isinstance(call, grpc.aio.StreamStreamCall):
            with contextlib.suppress(grpc.aio.AioRpcError):
                while await call.read() is not grpc.aio.EOF:
                    pass
        code: grpc.StatusCode = await call.code()
    return code


@pytest.mark.parametrize("kind", [Kind.GRPC, Kind.MULTIPLEXED])
async def test_thousands_of_strangers_do_not_keep_a_server_from_signed_calls(kind: Kind) -> None:
    async with served() as target, contextlib.AsyncExitStack() as stack:
        open_calls: list[Any] = []
        for _ in range(4):
            channel = await stack.enter_async_context(target.stranger())
            multiplex, health = multiplex_pb2_grpc.MultiplexServiceStub(channel), health_pb2_grpc.HealthStub(channel)
            open_calls += [multiplex.Connect() for _ in range(250)]
            open_calls += [health.Watch(health_pb2.HealthCheckRequest()) for _ in range(250)]
            # Calls that never send their request.
            open_calls += [channel.stream_unary(GET_ME)() for _ in range(25)]
        await eventually(lambda: sum(call.done() for call in open_calls) > len(open_calls) * 0.9, within=20)
        # Those that are still open are few, and others come while the signed call is made.
        async with target.signed(kind) as signed:
            stub = auth_pb2_grpc.AuthServiceStub(signed)
            answers = [await stub.GetMe(auth_pb2.GetMeRequest(), timeout=5) for _ in range(20)]
        assert {answer.user.id for answer in answers} == {USER.subject}
        # A probe of an orchestrator does not wait either.
        probe = await stack.enter_async_context(target.stranger())
        answer = await health_pb2_grpc.HealthStub(probe).Check(health_pb2.HealthCheckRequest(service="live"), timeout=5)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
        for call in open_calls:
            call.cancel()


@pytest.mark.parametrize("sent", [(), (("x-principal-bin", b"made up"),)], ids=["nothing", "rubbish"])
async def test_unsigned_call_is_refused_before_its_request_is_parsed(sent: tuple[tuple[str, bytes], ...]) -> None:
    parsed: list[bytes] = []

    def parse(raw: bytes) -> bytes:
        parsed.append(raw)
        return raw

    async def answer(request: bytes, _context: Any) -> bytes:
        return request

    handlers = {"Echo": grpc.unary_unary_rpc_method_handler(answer, request_deserializer=parse)}
    async with served() as target:
        target.server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Parsing", handlers),))
        async with target.stranger() as channel:
            call = channel.unary_unary("/test.Parsing/Echo")(b"x" * 4096, metadata=sent, timeout=5)
            assert await code_of(call) is grpc.StatusCode.UNAUTHENTICATED
            stream: Any = multiplex_pb2_grpc.MultiplexServiceStub(channel).Connect()
            await stream.read()
            entries = [multiplex_pb2.MetadataEntry(key=key, value=value) for key, value in sent]
            opened_call = multiplex_pb2.OpenCall(method="/test.Parsing/Echo", request=b"x", metadata=entries, credit=4096)
            await stream.write(multiplex_pb2.ConnectRequest(envelopes=[multiplex_pb2.ClientEnvelope(call=1, open=opened_call)]))
            (ended,) = (await stream.read()).envelopes
            assert ended.end.code == grpc.StatusCode.UNAUTHENTICATED.value[0]
            stream.cancel()
        assert parsed == []
        async with target.signed(Kind.GRPC) as signed:
            assert await signed.unary_unary("/test.Parsing/Echo")(b"mine") == b"mine"
        assert parsed == [b"mine"]


async def test_stream_of_a_stranger_ends_unless_a_signed_call_comes_in_time() -> None:
    async with served(stranger_seconds=0.3) as target, target.stranger() as channel:
        silent = multiplex_pb2_grpc.MultiplexServiceStub(channel).Connect()
        # A client of an earlier version does not say who it is; its calls do.
        async with connect(Kind.MULTIPLEXED, f"grpc://127.0.0.1:{target.port}", LocalNetwork()) as old:
            signer = target.roles.signer("gateway")
            old_channel = ServiceChannel(old, signer=signer, metrics=ClientMetrics(CollectorRegistry()), tracer=NoOpTracer())
            stub = auth_pb2_grpc.AuthServiceStub(old_channel)
            waiting, release = asyncio.Event(), asyncio.Event()

            async def late(request: Any, context: Any) -> Any:
                waiting.set()
                await release.wait()
                return await who_am_i(request, context)

            target.servicers.get_me = late
            call = stub.GetMe(auth_pb2.GetMeRequest(), timeout=20)
            assert await code_of(silent) is grpc.StatusCode.UNAUTHENTICATED
            await waiting.wait()
            release.set()
            assert (await call).user.id == USER.subject
        # Who said at once who it is may be silent.
        async with connect(Kind.MULTIPLEXED, f"grpc://127.0.0.1:{target.port}", LocalNetwork(), signer) as ours:
            await ours.channel_ready()
            pool: Any = ours._pool  # type: ignore[attr-defined]  # noqa: SLF001 - which stream it is shows nowhere else
            link = pool.pick()
            other = multiplex_pb2_grpc.MultiplexServiceStub(channel).Connect()
            assert await code_of(other) is grpc.StatusCode.UNAUTHENTICATED
            assert pool.pick() is link


async def test_probes_with_large_unreadable_or_missing_requests_are_refused() -> None:
    check = "/grpc.health.v1.Health/Check"
    async with served() as target, target.stranger() as channel:
        for request in (b"x" * 8192, b"\x0a\xff"):
            call = channel.unary_unary(check)(request, timeout=5)
            assert await code_of(call) is grpc.StatusCode.INVALID_ARGUMENT
        silent = channel.stream_unary(check)()
        await silent.done_writing()
        assert await code_of(silent) is grpc.StatusCode.INVALID_ARGUMENT
        stream: Any = multiplex_pb2_grpc.MultiplexServiceStub(channel).Connect()
        await stream.read()
        raw: Any = channel.stream_stream("/wireroom_protos.common.v1.MultiplexService/Connect")()
        await raw.write(b"\x0a\xff")
        assert await code_of(raw) is grpc.StatusCode.INVALID_ARGUMENT
        stream.cancel()


async def test_calls_in_streams_and_ordinary_ones_share_one_limit() -> None:
    release = asyncio.Event()
    began = 0

    async def wait(request: Any, context: Any) -> Any:
        nonlocal began
        began += 1
        await release.wait()
        return await who_am_i(request, context)

    async with served(max_concurrent_calls=4) as target:
        target.servicers.get_me = wait
        async with target.signed(Kind.GRPC) as ordinary, target.signed(Kind.MULTIPLEXED) as multiplexed:
            stubs = [auth_pb2_grpc.AuthServiceStub(channel) for channel in (ordinary, multiplexed)]
            calls = [asyncio.ensure_future(_outcome(stub)) for stub in stubs for _ in range(2)]
            await eventually(lambda: began == 4)
            for stub in stubs:
                error = await failure_of(stub.GetMe(auth_pb2.GetMeRequest(), timeout=5))
                assert (error.kind, error.code) == (ErrorKind.UNAVAILABLE, "rpc_overloaded")
            release.set()
            assert await asyncio.gather(*calls) == [USER.subject] * 4
            # The places are free again, all of them.
            for stub in stubs * 4:
                assert await _outcome(stub) == USER.subject


async def _outcome(stub: Any) -> str:
    response = await stub.GetMe(auth_pb2.GetMeRequest(), timeout=20)
    return str(response.user.id)
