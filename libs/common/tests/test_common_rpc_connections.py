"""Channels and their servers: limits, late starts, ends of processes."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import NoOpTracer
from prometheus_client import CollectorRegistry
from rpc_contract_rig import (
    USER,
    Kind,
    Roles,
    Servicers,
    Witness,
    connect,
    failure_of,
    opened,
    serve,
    user,
    who_am_i,
)
from rpc_other_process import echo

from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_common.principal import set_current_principal
from wireroom_common.rpc import (
    CallGuard,
    ClientMetrics,
    Health,
    LocalNetwork,
    ServerMetrics,
    ServiceChannel,
    acting_as_service,
    grpc_server,
    open_channel,
)
from wireroom_common.testing import eventually
from wireroom_protos.auth.v1 import auth_pb2, auth_pb2_grpc

NAME, WAIT = "/test.Echo/Name", "/test.Echo/Wait"
BETWEEN_PROCESSES = [Kind.GRPC, Kind.MULTIPLEXED]


@pytest.mark.parametrize("kind", Kind)
async def test_calls_above_the_limit_are_refused_as_unavailable(kind: Kind, tmp_path: Path) -> None:
    roles, network, servicers, witness = Roles(), LocalNetwork(), Servicers(), Witness()
    tracer, registry = TracerProvider().get_tracer("test"), CollectorRegistry()
    guard = CallGuard(verifier=roles.verifier(), metrics=ServerMetrics(registry), tracer=tracer)
    set_current_principal(USER)

    async def get_me(_request: Any, _context: Any) -> Any:
        await witness.wait_for_ever()

    servicers.get_me = get_me
    server, target = serve(kind, guard, network, tmp_path, max_concurrent_calls=1)
    auth_pb2_grpc.add_AuthServiceServicer_to_server(servicers, server)
    await server.start()
    inner = connect(kind, target, network)
    channel = ServiceChannel(inner, signer=roles.signer("gateway"), metrics=ClientMetrics(registry), tracer=tracer)
    stub = auth_pb2_grpc.AuthServiceStub(channel)
    first = stub.GetMe(auth_pb2.GetMeRequest())
    await witness.began.wait()
    error = await failure_of(stub.GetMe(auth_pb2.GetMeRequest()))
    assert (error.kind, error.code) == (ErrorKind.UNAVAILABLE, "rpc_overloaded")
    first.cancel()
    await witness.saw_cancellation()
    await channel.close()
    await server.stop(0)
    set_current_principal(None)


@contextlib.asynccontextmanager
async def other_process(*arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    script = Path(__file__).parent / "rpc_other_process.py"
    process = await asyncio.create_subprocess_exec(sys.executable, str(script), *arguments)
    try:
        yield process
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
        await process.wait()


def public_key(roles: Roles) -> str:
    return roles.keys["gateway"].public_key().public_bytes_raw().hex()


def service_channel(kind: Kind, target: str, roles: Roles, **options: Any) -> ServiceChannel:
    return ServiceChannel(
        connect(kind, target, LocalNetwork()),
        signer=roles.signer("gateway"),
        metrics=ClientMetrics(CollectorRegistry()),
        tracer=NoOpTracer(),
        **options,
    )


@pytest.mark.parametrize("kind", BETWEEN_PROCESSES)
async def test_killed_peer_is_unavailable_at_once_and_found_again_when_it_is_back(kind: Kind, tmp_path: Path) -> None:
    roles, address = Roles(), f"unix:{tmp_path}/peer.sock"
    with acting_as_service():
        async with service_channel(kind, f"grpc:{address}", roles, connect_wait=20) as channel:
            async with other_process("serve", address, public_key(roles), "first") as peer:
                call: Any = channel.unary_stream(WAIT)(b"")
                assert await anext(call) == b"first"
                peer.kill()
                async with asyncio.timeout(10):
                    error = await failure_of(anext(call))
            assert (error.kind, error.code) == (ErrorKind.UNAVAILABLE, "rpc_unavailable")
            async with other_process("serve", address, public_key(roles), "second"):
                assert await channel.unary_unary(NAME)(b"", timeout=20) == b"second"


@pytest.mark.parametrize("kind", BETWEEN_PROCESSES)
async def test_servicers_of_a_killed_client_are_cancelled(kind: Kind, tmp_path: Path) -> None:
    roles, witness = Roles(), Witness()
    guard = CallGuard(verifier=roles.verifier(), metrics=ServerMetrics(CollectorRegistry()), tracer=NoOpTracer())

    async def wait(_request: bytes, _context: Any) -> AsyncIterator[bytes]:
        yield b"first"
        await witness.wait_for_ever()

    server, target = serve(kind, guard, LocalNetwork(), tmp_path)
    handlers = {"Wait": grpc.unary_stream_rpc_method_handler(wait)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Echo", handlers),))
    await server.start()
    key = roles.keys["gateway"].private_bytes_raw().hex()
    async with other_process("call", target, key, kind.value) as client:
        async with asyncio.timeout(20):
            await witness.began.wait()
        client.kill()
        await witness.saw_cancellation()
    await server.stop(0)


@pytest.mark.parametrize("kind", BETWEEN_PROCESSES)
async def test_addresses_take_turns_and_dead_ones_are_skipped(kind: Kind) -> None:
    roles = Roles()
    guard = CallGuard(verifier=roles.verifier(), metrics=ServerMetrics(CollectorRegistry()), tracer=NoOpTracer())
    servers, addresses = [], []
    for name in ("a", "b"):
        server = grpc_server(guard)
        server.add_generic_rpc_handlers((echo(name),))
        addresses.append(f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}")
        await server.start()
        servers.append(server)
    with acting_as_service():
        async with service_channel(kind, f"grpc:ipv4:{addresses[0]},{addresses[1]},127.0.0.1:9", roles) as channel:
            ask = channel.unary_unary(NAME)
            await eventually(lambda: _both_answer(ask))
            assert Counter([await ask(b"") for _ in range(10)]) == {b"a": 5, b"b": 5}
            await servers[0].stop(0)
            await eventually(lambda: _only_b_answers(ask))
    await servers[1].stop(0)


async def _both_answer(ask: Any) -> bool:
    return {await ask(b"") for _ in range(4)} == {b"a", b"b"}


async def _only_b_answers(ask: Any) -> bool:
    try:
        return {await ask(b"") for _ in range(4)} == {b"b"}
    except WireroomError as error:
        if error.kind is not ErrorKind.UNAVAILABLE:
            raise
        return False


@pytest.mark.parametrize("kind", Kind)
async def test_three_thousand_calls_at_once_are_answered_or_refused_clearly(kind: Kind, tmp_path: Path) -> None:
    async with opened(kind, tmp_path) as rig:
        release = asyncio.Event()

        async def login(request: Any, _context: Any) -> Any:
            await release.wait()
            return auth_pb2.LoginResponse(user=auth_pb2.User(email=request.email))

        rig.servicers.login = login
        stub = rig.auth()
        calls = [
            asyncio.create_task(outcome_of(stub.Login(auth_pb2.LoginRequest(email=str(n)), timeout=60))) for n in range(3000)
        ]
        # Those beyond the limit of the server are refused while the others are in progress.
        await eventually(lambda: sum(call.done() for call in calls) >= 2000, within=30)
        release.set()
        outcomes = await asyncio.gather(*calls)
    errors = [outcome for outcome in outcomes if isinstance(outcome, WireroomError)]
    answered = [outcome.user.email == str(n) for n, outcome in enumerate(outcomes) if not isinstance(outcome, WireroomError)]
    assert {error.kind for error in errors} == {ErrorKind.UNAVAILABLE}
    assert all(answered)
    if kind is Kind.GRPC:
        # gRPC itself gives up some calls that no server has taken yet, as cancelled.
        assert 0 < len(answered) <= 1000
        assert {error.code for error in errors} <= {"rpc_overloaded", "rpc_cancelled"}
    else:
        assert len(answered) == 1000
        assert {error.code for error in errors} == {"rpc_overloaded"}


async def outcome_of(call: Any) -> Any:
    try:
        return await call
    except WireroomError as error:
        return error


@pytest.mark.parametrize("kind", [Kind.GRPC, Kind.MULTIPLEXED])
async def test_connection_that_comes_while_the_event_loop_is_held_up_is_not_missed(kind: Kind, tmp_path: Path) -> None:
    async with opened(kind, tmp_path) as rig:
        rig.servicers.get_me = who_am_i
        stub = rig.auth(connect_wait=0.6)
        calls = [asyncio.create_task(outcome_of(stub.GetMe(auth_pb2.GetMeRequest(), timeout=20))) for _ in range(100)]
        tasks = len(asyncio.all_tasks())
        for _ in range(3):
            await asyncio.sleep(0)
        # One task waits for the connection, however many calls do.
        assert len(asyncio.all_tasks()) < tasks + len(calls) // 2
        time.sleep(0.9)  # noqa: ASYNC251 - whoever holds up the event loop
        outcomes = await asyncio.gather(*calls)
    assert [str(getattr(outcome, "user", outcome)) for outcome in outcomes] == [str(user(USER).user)] * len(calls)


@pytest.mark.parametrize("kind", Kind)
async def test_channel_made_before_its_server_waits_for_it(kind: Kind, tmp_path: Path) -> None:
    roles, network, servicers = Roles(), LocalNetwork(), Servicers()
    tracer, registry = TracerProvider().get_tracer("test"), CollectorRegistry()
    guard = CallGuard(verifier=roles.verifier(), metrics=ServerMetrics(registry), tracer=tracer)
    servicers.get_me = who_am_i
    set_current_principal(USER)
    target = "local:late" if kind is Kind.LOCAL else f"grpc:unix:{tmp_path}/late.sock"
    channel = ServiceChannel(
        connect(kind, target, network),
        signer=roles.signer("gateway"),
        metrics=ClientMetrics(registry),
        tracer=tracer,
        connect_wait=20,
    )
    call = auth_pb2_grpc.AuthServiceStub(channel).GetMe(auth_pb2.GetMeRequest())
    await asyncio.sleep(0)
    server, _ = serve(kind, guard, network, tmp_path, "late")
    auth_pb2_grpc.add_AuthServiceServicer_to_server(servicers, server)
    await server.start()
    assert (await call).user.id == USER.subject
    await channel.close()
    await server.stop(0)
    set_current_principal(None)


@pytest.mark.parametrize("kind", [Kind.GRPC, Kind.MULTIPLEXED])
async def test_calls_pass_over_tcp(kind: Kind) -> None:
    roles, servicers = Roles(), Servicers()
    servicers.get_me = who_am_i
    tracer, registry = TracerProvider().get_tracer("test"), CollectorRegistry()
    server = grpc_server(CallGuard(verifier=roles.verifier(), metrics=ServerMetrics(registry), tracer=tracer))
    auth_pb2_grpc.add_AuthServiceServicer_to_server(servicers, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    inner = connect(kind, f"grpc://localhost:{port}", LocalNetwork())
    signer = roles.signer("rag")
    async with ServiceChannel(inner, signer=signer, metrics=ClientMetrics(registry), tracer=tracer) as channel:
        with acting_as_service():
            response = await auth_pb2_grpc.AuthServiceStub(channel).GetMe(auth_pb2.GetMeRequest())
    await server.stop(0)
    assert response.user.id == "rag"


async def test_health_needs_no_principal_and_tells_readiness(tmp_path: Path) -> None:
    roles = Roles()
    guard = CallGuard(
        verifier=roles.verifier(), metrics=ServerMetrics(CollectorRegistry()), tracer=TracerProvider().get_tracer("test")
    )
    server = grpc_server(guard)
    health = await Health.attach(server)
    server.add_insecure_port(f"unix:{tmp_path}/health.sock")
    await server.start()
    async with open_channel(f"grpc:unix:{tmp_path}/health.sock", LocalNetwork()) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        answers = [(await stub.Check(health_pb2.HealthCheckRequest(), timeout=5)).status]
        await health.set_ready(True)
        answers.append((await stub.Check(health_pb2.HealthCheckRequest(), timeout=5)).status)
        await health.shut_down()
        answers.append((await stub.Check(health_pb2.HealthCheckRequest(), timeout=5)).status)
    await server.stop(0)
    status = health_pb2.HealthCheckResponse
    assert answers == [status.NOT_SERVING, status.SERVING, status.NOT_SERVING]
