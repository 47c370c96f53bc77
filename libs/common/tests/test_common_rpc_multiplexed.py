"""What is special to streams of many calls: peers without them, renewal, hostile ends, large answers between small ones."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from opentelemetry.trace import NoOpTracer
from prometheus_client import CollectorRegistry
from rpc_contract_rig import MIB, USER, Kind, Rig, Roles, Witness, connect, failure_of, opened
from rpc_other_process import echo, plain_server

from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_common.rpc import (
    CallGuard,
    ClientMetrics,
    LocalNetwork,
    ServerMetrics,
    ServiceChannel,
    acting_as_service,
    current_request_id,
    grpc_server,
    open_channel,
    set_request_id,
)
from wireroom_common.testing import eventually
from wireroom_protos.auth.v1 import auth_pb2
from wireroom_protos.chat.v1 import chat_pb2
from wireroom_protos.common.v1 import multiplex_pb2, multiplex_pb2_grpc

NAME, WAIT = "/test.Echo/Name", "/test.Echo/Wait"
LOGIN = "/wireroom_protos.auth.v1.AuthService/Login"


@pytest.fixture
async def many(tmp_path: Path) -> AsyncIterator[Rig]:
    async with opened(Kind.MULTIPLEXED, tmp_path) as made:
        yield made


def guard_of(roles: Roles) -> CallGuard:
    return CallGuard(verifier=roles.verifier(), metrics=ServerMetrics(CollectorRegistry()), tracer=NoOpTracer())


def channel_to(target: str, roles: Roles, **options: Any) -> ServiceChannel:
    return ServiceChannel(
        open_channel(target, LocalNetwork(), multiplexed=True),
        signer=roles.signer("gateway"),
        metrics=ClientMetrics(CollectorRegistry()),
        tracer=NoOpTracer(),
        **options,
    )


# Peers that serve ordinary calls only


async def test_peer_that_knows_no_streams_is_called_the_ordinary_way(tmp_path: Path) -> None:
    roles, witness = Roles(), Witness()
    seen: list[str] = []

    async def answer(request: bytes, context: Any) -> bytes:
        seen.append(current_request_id())
        if request == b"fail":
            raise WireroomError(ErrorKind.CONFLICT, "taken", "It is taken.")
        context.set_trailing_metadata((("x-last", "1"),))
        return request.upper()

    async def wait(_request: bytes, _context: Any) -> AsyncIterator[bytes]:
        for _ in range(40):
            yield bytes(10_000)
        await witness.wait_for_ever()

    server = plain_server(guard_of(roles))
    handlers = {"Name": grpc.unary_unary_rpc_method_handler(answer), "Wait": grpc.unary_stream_rpc_method_handler(wait)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Echo", handlers),))
    server.add_insecure_port(f"unix:{tmp_path}/plain.sock")
    set_request_id("req-1")
    with acting_as_service():
        async with channel_to(f"grpc:unix:{tmp_path}/plain.sock", roles, connect_wait=20) as channel:
            ask: Any = channel.unary_unary(NAME)
            waiting = ask(b"one")
            await asyncio.sleep(0)
            await server.start()
            # The first waited until it was known how; the next know.
            assert await waiting == b"ONE"
            second = ask(b"two")
            assert await second == b"TWO"
            assert dict(await second.trailing_metadata())["x-last"] == "1"
            error = await failure_of(ask(b"fail"))
            assert (error.kind, error.code) == (ErrorKind.CONFLICT, "taken")
            call: Any = channel.unary_stream(WAIT)(b"")
            assert [len(await anext(call)) for _ in range(40)] == [10_000] * 40
            await call.aclose()
            await witness.saw_cancellation()
            await server.stop(0)
            await eventually(lambda: channel.get_state() is not grpc.ChannelConnectivity.READY)
            late = await failure_of(ask(b"gone", timeout=1.0))
            assert late.kind in {ErrorKind.UNAVAILABLE, ErrorKind.DEADLINE}
    set_request_id("")
    assert seen == ["req-1"] * 3


async def test_old_and_new_peers_of_one_target_both_serve(tmp_path: Path) -> None:
    roles = Roles()
    old, new = plain_server(guard_of(roles)), grpc_server(guard_of(roles))
    ports = []
    for server, name in ((old, "old"), (new, "new")):
        server.add_generic_rpc_handlers((echo(name),))
        ports.append(server.add_insecure_port("127.0.0.1:0"))
        await server.start()
    with acting_as_service():
        async with channel_to(f"grpc:ipv4:127.0.0.1:{ports[0]},127.0.0.1:{ports[1]}", roles) as channel:
            ask: Any = channel.unary_unary(NAME)

            async def both() -> bool:
                return {await ask(b"") for _ in range(8)} == {b"old", b"new"}

            await eventually(both)
    await old.stop(0)
    await new.stop(0)


# Renewal and the end of a server


async def test_calls_go_on_while_streams_are_renewed(tmp_path: Path) -> None:
    roles = Roles()
    server = grpc_server(guard_of(roles), max_connection_age=0.25)
    server.add_generic_rpc_handlers((echo("it"),))
    server.add_insecure_port(f"unix:{tmp_path}/young.sock")
    await server.start()
    loop = asyncio.get_running_loop()
    with acting_as_service():
        async with channel_to(f"grpc:unix:{tmp_path}/young.sock", roles, connect_wait=20) as channel:
            ask: Any = channel.unary_unary(NAME)
            long: Any = channel.unary_stream(WAIT)(b"")
            assert await anext(long) == b"it"
            end = loop.time() + 1.2
            answers = set()
            while loop.time() < end:
                answers |= set(await asyncio.gather(*(ask(b"") for _ in range(8))))
            assert answers == {b"it"}
            assert not long.done()
            await long.aclose()
    await server.stop(0)


async def test_server_without_calls_stops_at_once_though_its_clients_stay(many: Rig) -> None:
    async with asyncio.timeout(10):
        await many.stop(60)


# Size


async def test_small_answers_pass_between_the_parts_of_large_ones(many: Rig) -> None:
    release = asyncio.Event()

    async def stream(_request: Any, _context: Any) -> AsyncIterator[Any]:
        yield chat_pb2.StreamCompleteResponse(data=bytes(10 * MIB))
        release.set()

    async def login(_request: Any, _context: Any) -> Any:
        return auth_pb2.LoginResponse()

    many.servicers.stream, many.servicers.login = stream, login
    call = many.chat().StreamComplete(chat_pb2.StreamCompleteRequest())
    large = asyncio.create_task(anext(call))
    await many.auth().Login(auth_pb2.LoginRequest())
    assert not large.done()
    assert len((await large).data) == 10 * MIB
    assert [part async for part in call] == []
    assert release.is_set()


@pytest.mark.parametrize("size", [0, 1, 32 * 1024, 32 * 1024 + 1, 65 * 1024, 300_000])
async def test_answers_of_every_size_arrive_whole(many: Rig, size: int) -> None:
    async def stream(_request: Any, _context: Any) -> AsyncIterator[Any]:
        for letter in b"abc":
            yield chat_pb2.StreamCompleteResponse(data=bytes([letter]) * size)

    many.servicers.stream = stream
    received = [part.data async for part in many.chat().StreamComplete(chat_pb2.StreamCompleteRequest())]
    assert received == [bytes([letter]) * size for letter in b"abc"]


@pytest.mark.parametrize("size", [60 * 1024, 70 * 1024, 3 * MIB])
async def test_requests_of_every_size_arrive_whole(many: Rig, size: int) -> None:
    async def login(request: Any, _context: Any) -> Any:
        return auth_pb2.LoginResponse(user=auth_pb2.User(name=str(len(request.password))))

    many.servicers.login = login
    assert (await many.auth().Login(auth_pb2.LoginRequest(password="x" * size), timeout=30)).user.name == str(size)


# Hostile ends


@contextlib.asynccontextmanager
async def raw_stream(rig: Rig) -> AsyncIterator[Any]:
    """A stream as a peer could write it that keeps no rules."""
    async with connect(Kind.GRPC, rig.target, rig.network) as channel:
        stream: Any = multiplex_pb2_grpc.MultiplexServiceStub(channel).Connect()
        hello = await stream.read()
        assert hello.envelopes[0].HasField("hello")
        yield stream
        stream.cancel()


async def ends(stream: Any, count: int) -> dict[int, Any]:
    found: dict[int, Any] = {}
    async with asyncio.timeout(10):
        while len(found) < count:
            for envelope in (await stream.read()).envelopes:
                if envelope.HasField("end"):
                    found[envelope.call] = envelope.end
    return found


def opening(call: int, rig: Rig, *entries: tuple[str, bytes], method: str = LOGIN, **fields: Any) -> multiplex_pb2.ClientEnvelope:
    metadata = [multiplex_pb2.MetadataEntry(key=key, value=value) for key, value in entries]
    if not any(key == "x-principal-bin" for key, _ in entries):
        signed = rig.roles.signer("gateway").sign(USER)
        metadata.append(multiplex_pb2.MetadataEntry(key="x-principal-bin", value=signed))
    opened_call = multiplex_pb2.OpenCall(method=method, metadata=metadata, credit=1 << 17, **fields)
    return multiplex_pb2.ClientEnvelope(call=call, open=opened_call)


async def test_each_call_of_a_stream_is_checked(many: Rig) -> None:
    served: list[str] = []

    async def login(request: Any, _context: Any) -> Any:
        served.append(request.email)
        return auth_pb2.LoginResponse()

    many.servicers.login = login
    request = auth_pb2.LoginRequest(email="good").SerializeToString()
    async with raw_stream(many) as stream:
        envelopes = [
            opening(1, many, request=request, timeout=5),
            opening(2, many, ("x-principal-bin", b""), timeout=5),
            opening(3, many, ("x-principal-bin", b"forged"), timeout=5),
            opening(4, many, ("x-request-id", "ä".encode()), timeout=5),
            opening(5, many, ("x-request-id", b"a\nb"), timeout=5),
            opening(6, many, ("X-Upper", b"a"), timeout=5),
            opening(7, many, ("x-large", b"a" * 33_000), timeout=5),
            opening(8, many, method="/wireroom_protos.common.v1.MultiplexService/Connect", timeout=5),
            opening(9, many, method="nothing", timeout=5),
            opening(10, many, timeout=float("nan")),
            opening(11, many, timeout=-1),
            opening(12, many, request=bytes(65 * 1024), timeout=5),
            opening(13, many, request=b"\xff\xff", timeout=5),
        ]
        await stream.write(multiplex_pb2.ConnectRequest(envelopes=envelopes))
        found = await ends(stream, len(envelopes))
    code = grpc.StatusCode
    assert {call: end.code for call, end in sorted(found.items())} == {
        1: code.OK.value[0],
        2: code.UNAUTHENTICATED.value[0],
        3: code.UNAUTHENTICATED.value[0],
        **dict.fromkeys((4, 5, 6, 7), code.RESOURCE_EXHAUSTED.value[0]),
        8: code.UNIMPLEMENTED.value[0],
        9: code.UNIMPLEMENTED.value[0],
        10: code.DEADLINE_EXCEEDED.value[0],
        11: code.DEADLINE_EXCEEDED.value[0],
        12: code.RESOURCE_EXHAUSTED.value[0],
        13: code.UNKNOWN.value[0],
    }
    assert served == ["good"]


async def test_client_that_reads_nothing_stalls_the_servicers(many: Rig) -> None:
    written = 0

    async def stream(_request: Any, _context: Any) -> AsyncIterator[Any]:
        nonlocal written
        while True:
            yield chat_pb2.StreamCompleteResponse(data=bytes(30_000))
            written += 1

    many.servicers.stream = stream
    method = "/wireroom_protos.chat.v1.InferenceService/StreamComplete"
    async with raw_stream(many) as raw:
        envelopes = [opening(call, many, method=method, timeout=60) for call in range(1, 101)]
        for envelope in envelopes:
            envelope.open.credit = 1 << 62
        await raw.write(multiplex_pb2.ConnectRequest(envelopes=envelopes))
        still, last = 0, -1
        while still < 20 or not written:
            still, last = (still + 1, last) if written == last else (0, written)
            await asyncio.sleep(0.01)
    # 16 MiB of credit for each of 100 calls would be 1.6 GB.
    assert written * 30_000 < 40 * MIB


async def test_a_number_used_twice_ends_its_call(many: Rig) -> None:
    witness = Witness()

    async def login(_request: Any, _context: Any) -> Any:
        await witness.wait_for_ever()

    many.servicers.login = login
    async with raw_stream(many) as stream:
        await stream.write(multiplex_pb2.ConnectRequest(envelopes=[opening(1, many, timeout=60)]))
        await witness.began.wait()
        await stream.write(multiplex_pb2.ConnectRequest(envelopes=[opening(1, many, timeout=60)]))
        assert (await ends(stream, 1))[1].code == grpc.StatusCode.INTERNAL.value[0]
        await witness.saw_cancellation()


async def test_server_that_ends_the_stream_or_speaks_nonsense_fails_calls_unavailable(tmp_path: Path) -> None:
    class Rude(multiplex_pb2_grpc.MultiplexServiceServicer):
        async def Connect(self, request_iterator: Any, context: Any) -> None:  # type: ignore[override]  # noqa: ARG002, N802 - name of the rpc
            await context.write(multiplex_pb2.ConnectResponse(envelopes=[{"hello": {}}]))
            request = await context.read()
            call = request.envelopes[0].call
            entries = [{"key": "X", "value": b"\xff"}]
            await context.write(
                multiplex_pb2.ConnectResponse(
                    envelopes=[
                        {"call": 77, "data": b"of nobody"},
                        {"call": call, "initial": {"metadata": []}},
                        {"call": call, "part": b"half"},
                        *(
                            [{"call": call, "end": {"code": 99, "trailing_metadata": entries}}]
                            if request.envelopes[0].open.request
                            else []
                        ),
                    ]
                )
            )

    server = grpc.aio.server()
    multiplex_pb2_grpc.add_MultiplexServiceServicer_to_server(Rude(), server)
    server.add_insecure_port(f"unix:{tmp_path}/rude.sock")
    await server.start()
    with acting_as_service():
        async with channel_to(f"grpc:unix:{tmp_path}/rude.sock", Roles(), connect_wait=20) as channel:
            ask: Any = channel.unary_unary(NAME)
            assert (await failure_of(ask(b""))).kind is ErrorKind.UNAVAILABLE
            assert (await failure_of(ask(b"x"))).kind is ErrorKind.INTERNAL
    await server.stop(0)
