"""What both kinds of channel promise, proven over both: in one process, and gRPC on a Unix socket."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import grpc
import grpc.aio
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from grpc_health.v1 import health_pb2, health_pb2_grpc
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from wireroom_common.clock import SystemClock
from wireroom_common.errors import ErrorKind, FieldProblem, WireroomError
from wireroom_common.principal import Principal, PrincipalKind, current_principal, set_current_principal
from wireroom_common.rpc import (
    CallGuard,
    ClientMetrics,
    Health,
    LocalNetwork,
    PrincipalSigner,
    PrincipalVerifier,
    ServerMetrics,
    ServiceChannel,
    acting_as_service,
    current_request_id,
    grpc_server,
    open_channel,
    remaining_time,
    set_remaining_time,
    set_request_id,
)
from wireroom_common.rpc.context import EffectKey, current_effect_key, idempotency_key_to_send, set_idempotency_key
from wireroom_common.rpc.failures import error_from
from wireroom_protos.auth.v1 import auth_pb2, auth_pb2_grpc
from wireroom_protos.chat.v1 import chat_pb2, chat_pb2_grpc
from wireroom_protos.rag.v1 import rag_pb2, rag_pb2_grpc

USER = Principal(
    PrincipalKind.USER, subject=str(uuid4()), tenant_id=uuid4(), roles=frozenset({"member"}), permissions=frozenset({"chat"})
)
LOGIN = "/wireroom_protos.auth.v1.AuthService/Login"
ECHO = "/test.Echo/Talk"
MIB = 1024 * 1024

Handler = Callable[[Any, Any], Any]


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
        return open_channel(target or self.target, self.network)

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


@pytest.fixture(params=["local", "grpc"])
async def rig(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Rig]:
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
    server: grpc.aio.Server
    if request.param == "local":
        server, target = network.server("suite", interceptors=(guard,)), "local:suite"
    else:
        server, target = grpc_server(guard), f"grpc:unix:{tmp_path}/suite.sock"
        server.add_insecure_port(target.removeprefix("grpc:"))
    auth_pb2_grpc.add_AuthServiceServicer_to_server(servicers, server)
    chat_pb2_grpc.add_InferenceServiceServicer_to_server(servicers, server)
    rag_pb2_grpc.add_DocumentServiceServicer_to_server(servicers, server)
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("test.Echo", {"Talk": grpc.stream_stream_rpc_method_handler(servicers.echo)}),)
    )
    await server.start()
    made = Rig(
        roles, servicers, network, target, registry, spans, server.stop, tracer=tracer, client_metrics=ClientMetrics(registry)
    )
    # Channels of one target share its connection: short deadlines below are about calls, not about connecting.
    await made.channel().channel_ready()
    set_current_principal(USER)
    yield made
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


# Shapes


async def test_unary_returns_the_response(rig: Rig) -> None:
    async def login(request: Any, _context: Any) -> Any:
        return auth_pb2.LoginResponse(user=auth_pb2.User(email=request.email))

    rig.servicers.login = login
    response = await rig.auth().Login(auth_pb2.LoginRequest(email="ä@example.org"))
    assert response.user.email == "ä@example.org"
    assert rig.count("server", "Login", "ok") == 1
    assert rig.count("client", "Login", "ok") == 1


async def test_server_stream_arrives_in_order_and_ends(rig: Rig) -> None:
    async def stream(_request: Any, _context: Any) -> AsyncIterator[Any]:
        for number in range(100):
            yield chat_pb2.StreamCompleteResponse(data=b"%d" % number)

    rig.servicers.stream = stream
    received = [part.data async for part in rig.chat().StreamComplete(chat_pb2.StreamCompleteRequest())]
    assert received == [b"%d" % number for number in range(100)]
    assert rig.count("client", "StreamComplete", "ok") == 1


async def test_client_stream_arrives_in_order(rig: Rig) -> None:
    async def upload(requests: Any, _context: Any) -> Any:
        joined = b"".join([request.data async for request in requests])
        return rag_pb2.UploadDocumentResponse(document=rag_pb2.Document(name=joined.decode()))

    async def parts() -> AsyncIterator[Any]:
        for letter in "wireroom":
            yield rag_pb2.UploadDocumentRequest(data=letter.encode())

    rig.servicers.upload = upload
    response = await rig.documents().UploadDocument(parts())
    assert response.document.name == "wireroom"


async def test_both_directions_interleave(rig: Rig) -> None:
    async def talk(requests: Any, _context: Any) -> AsyncIterator[bytes]:
        async for request in requests:
            yield request.upper()

    rig.servicers.talk = talk
    call = rig.talk()()
    for word in (b"one", b"two"):
        await call.write(word)
        assert await call.read() == word.upper()
    await call.done_writing()
    assert await call.read() is grpc.aio.EOF


async def test_server_may_answer_before_the_client_has_sent_all(rig: Rig) -> None:
    closed = asyncio.Event()

    async def upload(requests: Any, _context: Any) -> Any:
        first = await anext(aiter(requests))
        return rag_pb2.UploadDocumentResponse(document=rag_pb2.Document(name=first.data.decode()))

    async def parts() -> AsyncIterator[Any]:
        try:
            yield rag_pb2.UploadDocumentRequest(data=b"first")
            await asyncio.Event().wait()
        finally:
            closed.set()

    rig.servicers.upload = upload
    response = await rig.documents().UploadDocument(parts())
    assert response.document.name == "first"
    async with asyncio.timeout(5):
        await closed.wait()


async def test_ten_megabytes_pass_and_twenty_five_are_too_large(rig: Rig) -> None:
    async def login(request: Any, _context: Any) -> Any:
        return auth_pb2.LoginResponse(user=auth_pb2.User(name=request.password))

    rig.servicers.login = login
    stub = rig.auth()
    response = await stub.Login(auth_pb2.LoginRequest(password="x" * (10 * MIB)), timeout=30)
    assert len(response.user.name) == 10 * MIB
    error = await failure_of(stub.Login(auth_pb2.LoginRequest(password="x" * (25 * MIB)), timeout=30))
    assert (error.kind, error.code) == (ErrorKind.TOO_LARGE, "message_too_large")


async def test_slow_reader_stalls_the_writer(rig: Rig) -> None:
    written = 0
    total = 200

    async def stream(_request: Any, _context: Any) -> AsyncIterator[Any]:
        nonlocal written
        for _ in range(total):
            yield chat_pb2.StreamCompleteResponse(data=bytes(MIB))
            written += 1

    rig.servicers.stream = stream
    call = rig.chat().StreamComplete(chat_pb2.StreamCompleteRequest())
    await anext(call)
    # The writer runs freely until it stalls: it has stalled once its count stands still through many turns of the loop.
    still, last = 0, -1
    while still < 20:
        still, last = (still + 1, last) if written == last else (0, written)
        await asyncio.sleep(0.01)
    assert written < total // 4
    assert len([part async for part in call]) == total - 1


# Ends


async def test_client_gives_up_at_its_deadline_and_the_servicer_is_cancelled(rig: Rig) -> None:
    witness = Witness()

    async def login(_request: Any, _context: Any) -> Any:
        await witness.wait_for_ever()

    rig.servicers.login = login
    error = await failure_of(rig.auth().Login(auth_pb2.LoginRequest(), timeout=1.0))
    assert (error.kind, error.code) == (ErrorKind.DEADLINE, "rpc_deadline")
    await witness.saw_cancellation()


async def test_servicer_sees_the_deadline_of_the_client(rig: Rig) -> None:
    seen: list[float | None] = []

    async def login(_request: Any, _context: Any) -> Any:
        seen.append(remaining_time())
        return auth_pb2.LoginResponse()

    rig.servicers.login = login
    stub = rig.auth()
    await stub.Login(auth_pb2.LoginRequest(), timeout=5)
    await stub.Login(auth_pb2.LoginRequest())
    set_remaining_time(3.0)
    await stub.Login(auth_pb2.LoginRequest(), timeout=50)
    set_remaining_time(None)
    assert seen == [pytest.approx(limit, abs=1.5) for limit in (5, 10, 3)]


async def test_call_without_a_deadline_gets_the_servers_default(rig: Rig) -> None:
    witness = Witness()

    async def login(_request: Any, _context: Any) -> Any:
        await witness.wait_for_ever()

    rig.servicers.login = login
    async with rig.bare() as bare:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await auth_pb2_grpc.AuthServiceStub(bare).Login(
                auth_pb2.LoginRequest(), metadata=(("x-principal-bin", rig.roles.signer("gateway").sign(USER)),)
            )
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await witness.saw_cancellation()
    assert rig.count("server", "Login", "deadline") == 1


async def test_cancelling_the_waiting_task_cancels_the_servicer(rig: Rig) -> None:
    witness = Witness()

    async def login(_request: Any, _context: Any) -> Any:
        await witness.wait_for_ever()

    async def client() -> None:
        await rig.auth().Login(auth_pb2.LoginRequest())

    rig.servicers.login = login
    task = asyncio.create_task(client())
    await witness.began.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await witness.saw_cancellation()
    assert rig.count("client", "Login", "cancelled") == 1


@pytest.mark.parametrize("how", ["cancel", "aclose", "drop"])
async def test_leaving_a_stream_early_cancels_the_servicer(rig: Rig, how: str) -> None:
    witness = Witness()

    async def stream(_request: Any, _context: Any) -> AsyncIterator[Any]:
        yield chat_pb2.StreamCompleteResponse(data=b"first")
        await witness.wait_for_ever()

    rig.servicers.stream = stream
    stub = rig.chat()
    if how == "drop":
        async for part in stub.StreamComplete(chat_pb2.StreamCompleteRequest()):
            assert part.data == b"first"
            break
    else:
        call = stub.StreamComplete(chat_pb2.StreamCompleteRequest())
        assert (await anext(call)).data == b"first"
        if how == "cancel":
            assert call.cancel()
        else:
            await call.aclose()
        assert call.done()
    await witness.saw_cancellation()


async def test_cancellation_by_the_server_is_unavailable(rig: Rig) -> None:
    async def login(_request: Any, _context: Any) -> Any:
        raise asyncio.CancelledError

    rig.servicers.login = login
    error = await failure_of(rig.auth().Login(auth_pb2.LoginRequest(), timeout=5))
    assert (error.kind, error.code) == (ErrorKind.UNAVAILABLE, "rpc_cancelled")


async def test_failing_request_iterator_raises_its_own_error_and_cancels(rig: Rig) -> None:
    witness = Witness()

    async def upload(requests: Any, _context: Any) -> Any:
        await anext(aiter(requests))
        await witness.wait_for_ever()

    async def parts() -> AsyncIterator[Any]:
        yield rag_pb2.UploadDocumentRequest(data=b"1")
        await witness.began.wait()
        raise WireroomError(ErrorKind.TOO_LARGE, "body_too_large", "The body is too large.")

    rig.servicers.upload = upload
    error = await failure_of(rig.documents().UploadDocument(parts()))
    assert error.code == "body_too_large"
    await witness.saw_cancellation()


# Metadata


async def test_metadata_trace_and_request_id_travel(rig: Rig) -> None:
    seen: dict[str, Any] = {}

    async def login(_request: Any, context: Any) -> Any:
        seen.update(context.invocation_metadata())
        seen["request id"] = current_request_id()
        await context.send_initial_metadata((("x-first", "1"),))
        context.set_trailing_metadata((("x-last-bin", b"\x00\xff"),))
        return auth_pb2.LoginResponse()

    rig.servicers.login = login
    set_request_id("req-42")
    with rig.tracer.start_as_current_span("root") as root:
        call = rig.auth().Login(auth_pb2.LoginRequest(), metadata=(("x-given", "yes"), ("x-principal-bin", b"forged")))
        await call
    set_request_id("")
    assert seen["x-given"] == "yes"
    assert seen["request id"] == "req-42"
    assert dict(await call.initial_metadata())["x-first"] == "1"
    assert dict(await call.trailing_metadata())["x-last-bin"] == b"\x00\xff"
    names = {
        (span.name, span.kind.name) for span in rig.spans.get_finished_spans() if span.context.trace_id == root.context.trace_id
    }
    assert {(LOGIN[1:], "CLIENT"), (LOGIN[1:], "SERVER")} <= names


async def test_an_idempotency_key_travels_to_the_call_and_no_further(rig: Rig) -> None:
    keys: list[EffectKey | None] = []
    sent_on: list[str] = []

    async def login(_request: Any, _context: Any) -> Any:
        keys.append(current_effect_key())
        sent_on.append(idempotency_key_to_send())
        return auth_pb2.LoginResponse()

    rig.servicers.login = login
    set_idempotency_key("ab" * 32)
    await rig.auth().Login(auth_pb2.LoginRequest(), metadata=(("idempotency-key", "cd" * 32),))
    await rig.auth().Login(auth_pb2.LoginRequest())
    set_idempotency_key("")
    await rig.auth().Login(auth_pb2.LoginRequest(), metadata=(("idempotency-key", "ab" * 32),))
    first, second, none = keys
    assert first is not None
    assert second is not None
    assert first.value == second.value
    assert first.call_id != second.call_id
    assert none is None
    assert sent_on == ["", "", ""]


# Errors


@pytest.mark.parametrize("kind", list(ErrorKind))
async def test_every_error_kind_survives(rig: Rig, kind: ErrorKind) -> None:
    async def login(_request: Any, _context: Any) -> Any:
        raise WireroomError(
            kind, "some_code", "Détail with ünïcode.", fields=[FieldProblem("/email", "is wrong")], retry_after=2.5
        )

    async def stream(_request: Any, _context: Any) -> AsyncIterator[Any]:
        yield chat_pb2.StreamCompleteResponse(data=b"before")
        raise WireroomError(kind, "late_code", "Too late.")

    rig.servicers.login = login
    rig.servicers.stream = stream
    error = await failure_of(rig.auth().Login(auth_pb2.LoginRequest()))
    assert (error.kind, error.code, error.detail) == (kind, "some_code", "Détail with ünïcode.")
    assert (error.fields, error.retry_after) == ((FieldProblem("/email", "is wrong"),), 2.5)
    call = rig.chat().StreamComplete(chat_pb2.StreamCompleteRequest())
    assert (await anext(call)).data == b"before"
    assert (await failure_of(anext(call))).code == "late_code"
    assert rig.count("server", "Login", kind.value) == rig.count("client", "StreamComplete", kind.value) == 1


async def test_long_error_still_fits(rig: Rig) -> None:
    async def login(_request: Any, _context: Any) -> Any:
        raise WireroomError(
            ErrorKind.INVALID, "many", "🌊" * 9000, fields=[FieldProblem("🌊" * 500, "🌊" * 500) for _ in range(100)]
        )

    rig.servicers.login = login
    error = await failure_of(rig.auth().Login(auth_pb2.LoginRequest(), timeout=5))
    assert (error.kind, error.code) == (ErrorKind.INVALID, "many")
    assert error.fields


async def test_unknown_exception_is_blank_and_logged(rig: Rig) -> None:
    async def login(_request: Any, _context: Any) -> Any:
        raise RuntimeError("password=hunter2 at 10.0.0.7")

    rig.servicers.login = login
    set_request_id("req-7")
    with capture_logs() as logs:
        call = rig.auth().Login(auth_pb2.LoginRequest())
        error = await failure_of(call)
    set_request_id("")
    assert (error.kind, error.code) == (ErrorKind.INTERNAL, "internal")
    assert "hunter2" not in str(error)
    assert "hunter2" not in await call.details()
    assert [entry["request_id"] for entry in logs if entry["event"] == "rpc_failed"] == ["req-7"]


async def test_abort_by_the_servicer_keeps_its_meaning(rig: Rig) -> None:
    async def login(_request: Any, context: Any) -> Any:
        await context.abort(grpc.StatusCode.NOT_FOUND, "internal words")

    rig.servicers.login = login
    error = await failure_of(rig.auth().Login(auth_pb2.LoginRequest()))
    assert (error.kind, error.code) == (ErrorKind.NOT_FOUND, "rpc_not_found")
    assert "internal words" not in error.detail


async def test_method_nobody_offers_is_unimplemented(rig: Rig) -> None:
    error = await failure_of(rig.auth().Logout(auth_pb2.LogoutRequest()))
    assert (error.kind, error.code) == (ErrorKind.INTERNAL, "rpc_unimplemented")
    unknown = rig.channel().unary_unary("/test.Echo/Nothing")
    assert (await failure_of(unknown(b""))).code == "rpc_unimplemented"
    assert rig.count("server", "unknown", "unimplemented") == 1


async def test_stopped_server_ends_calls_unavailable_and_refuses_new_ones(rig: Rig) -> None:
    witness = Witness()

    async def stream(_request: Any, _context: Any) -> AsyncIterator[Any]:
        yield chat_pb2.StreamCompleteResponse(data=b"first")
        await witness.wait_for_ever()

    rig.servicers.stream = stream
    call = rig.chat().StreamComplete(chat_pb2.StreamCompleteRequest())
    await anext(call)
    await witness.began.wait()
    await rig.stop(0)
    assert (await failure_of(anext(call))).kind is ErrorKind.UNAVAILABLE
    await witness.saw_cancellation()
    error = await failure_of(rig.auth(connect_wait=0.3).Login(auth_pb2.LoginRequest(), timeout=60))
    assert (error.kind, error.code) == (ErrorKind.UNAVAILABLE, "rpc_unavailable")


async def test_graceful_stop_lets_calls_finish(rig: Rig) -> None:
    began, release = asyncio.Event(), asyncio.Event()

    async def login(_request: Any, _context: Any) -> Any:
        began.set()
        await release.wait()
        return auth_pb2.LoginResponse(user=auth_pb2.User(id="done"))

    rig.servicers.login = login
    call = rig.auth().Login(auth_pb2.LoginRequest())
    await began.wait()
    stopping = asyncio.create_task(rig.stop(5))
    await asyncio.sleep(0)
    release.set()
    assert (await call).user.id == "done"
    await stopping


# Principals


async def test_principal_arrives_as_it_was_signed(rig: Rig) -> None:
    seen: list[Principal] = []

    async def login(_request: Any, _context: Any) -> Any:
        seen.append(current_principal())
        return auth_pb2.LoginResponse()

    rig.servicers.login = login
    await rig.auth().Login(auth_pb2.LoginRequest())
    assert seen == [USER]


async def test_anonymous_callers_reach_public_methods_only(rig: Rig) -> None:
    async def login(_request: Any, _context: Any) -> Any:
        return auth_pb2.LoginResponse(user=auth_pb2.User(name=current_principal().kind.value))

    rig.servicers.login = login
    rig.servicers.get_me = who_am_i
    set_current_principal(None)
    stub = rig.auth("chat")
    assert (await stub.Login(auth_pb2.LoginRequest())).user.name == "anonymous"
    error = await failure_of(stub.GetMe(auth_pb2.GetMeRequest()))
    assert (error.kind, error.code) == (ErrorKind.UNAUTHENTICATED, "principal_anonymous")


def tampered(roles: Roles) -> bytes:
    signed = bytearray(roles.signer("gateway").sign(USER))
    signed[10] ^= 1
    return bytes(signed)


class Yesterday(SystemClock):
    def now(self) -> datetime:
        return super().now() - timedelta(days=1)


def expired(roles: Roles) -> bytes:
    return PrincipalSigner("gateway", roles.keys["gateway"], Yesterday()).sign(USER)


@pytest.mark.parametrize(
    ("make", "code"),
    [
        (tampered, {"principal_signature_invalid", "principal_malformed"}),
        (expired, {"principal_expired"}),
        (
            lambda _: PrincipalSigner("gateway", Ed25519PrivateKey.generate(), SystemClock()).sign(USER),
            {"principal_signature_invalid"},
        ),
        (
            lambda _: PrincipalSigner("mallory", Ed25519PrivateKey.generate(), SystemClock()).sign(
                Principal(PrincipalKind.SERVICE)
            ),
            {"principal_signature_invalid"},
        ),
        (lambda _: b"\xff" * 64, {"principal_malformed"}),
        (None, {"principal_missing"}),
    ],
)
async def test_call_without_a_good_principal_is_refused(rig: Rig, make: Any, code: set[str]) -> None:
    called = False

    async def login(_request: Any, _context: Any) -> Any:
        nonlocal called
        called = True
        return auth_pb2.LoginResponse()

    rig.servicers.login = login
    metadata = (("x-principal-bin", make(rig.roles)),) if make else ()
    async with rig.bare() as bare:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await auth_pb2_grpc.AuthServiceStub(bare).Login(auth_pb2.LoginRequest(), metadata=metadata, timeout=5)
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
    restored = error_from(caught.value.code(), caught.value.details(), caught.value.trailing_metadata())
    assert restored.code in code
    assert not called
    assert rig.count("server", "Login", "unauthenticated") == 1


async def test_service_forwards_the_principal_it_serves_and_signs_no_other(rig: Rig) -> None:
    inner = rig.auth("chat")
    other = Principal(PrincipalKind.USER, subject=str(uuid4()), tenant_id=USER.tenant_id)

    async def login(request: Any, _context: Any) -> Any:
        if request.email == "forged":
            set_current_principal(other)
        answer = await inner.GetMe(auth_pb2.GetMeRequest())
        return auth_pb2.LoginResponse(user=answer.user)

    rig.servicers.login = login
    rig.servicers.get_me = who_am_i
    response = await rig.auth("gateway").Login(auth_pb2.LoginRequest())
    assert (response.user.id, UUID(response.user.tenant_id)) == (USER.subject, USER.tenant_id)
    error = await failure_of(rig.auth("gateway").Login(auth_pb2.LoginRequest(email="forged")))
    assert (error.kind, error.code) == (ErrorKind.INTERNAL, "principal_not_signable")


async def test_nested_call_does_not_outlive_its_caller(rig: Rig) -> None:
    witness = Witness()
    inner = rig.auth("chat")
    nested: list[float] = []

    async def get_me(_request: Any, _context: Any) -> Any:
        nested.append(remaining_time() or 0.0)
        await witness.wait_for_ever()

    async def login(_request: Any, _context: Any) -> Any:
        return await inner.GetMe(auth_pb2.GetMeRequest(), timeout=60)

    rig.servicers.get_me = get_me
    rig.servicers.login = login
    error = await failure_of(rig.auth().Login(auth_pb2.LoginRequest(), timeout=2.0))
    assert error.kind is ErrorKind.DEADLINE
    await witness.saw_cancellation()
    assert 0 < nested[0] < 3


async def test_background_work_acts_as_the_service(rig: Rig) -> None:
    rig.servicers.get_me = who_am_i
    set_current_principal(None)
    tenant = uuid4()
    with acting_as_service(tenant):
        response = await rig.auth("rag").GetMe(auth_pb2.GetMeRequest())
    assert (response.user.id, response.user.tenant_id) == ("rag", str(tenant))


async def test_caller_context_does_not_leak_into_the_servicer(rig: Rig) -> None:
    with contextlib.ExitStack() as stack:
        stack.enter_context(acting_as_service(uuid4()))
        rig.servicers.get_me = who_am_i
        async with rig.bare() as bare:
            answer = await auth_pb2_grpc.AuthServiceStub(bare).GetMe(
                auth_pb2.GetMeRequest(), metadata=(("x-principal-bin", rig.roles.signer("gateway").sign(USER)),), timeout=5
            )
    assert answer.user.id == USER.subject


async def test_calls_above_the_limit_are_refused_as_unavailable(tmp_path: Path) -> None:
    roles, network = Roles(), LocalNetwork()
    tracer, registry = TracerProvider().get_tracer("test"), CollectorRegistry()
    guard = CallGuard(verifier=roles.verifier(), metrics=ServerMetrics(registry), tracer=tracer)
    metrics = ClientMetrics(registry)
    set_current_principal(USER)
    for target in ("local:small", f"grpc:unix:{tmp_path}/small.sock"):
        servicers, witness = Servicers(), Witness()

        async def get_me(_request: Any, _context: Any, witness: Witness = witness) -> Any:
            await witness.wait_for_ever()

        servicers.get_me = get_me
        server: grpc.aio.Server
        if target.startswith("local:"):
            server = network.server("small", interceptors=(guard,), max_concurrent_calls=1)
        else:
            server = grpc_server(guard, max_concurrent_calls=1)
            server.add_insecure_port(target.removeprefix("grpc:"))
        auth_pb2_grpc.add_AuthServiceServicer_to_server(servicers, server)
        await server.start()
        channel = ServiceChannel(open_channel(target, network), signer=roles.signer("gateway"), metrics=metrics, tracer=tracer)
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


PEER = """
import asyncio, sys, grpc
async def main():
    async def talk(request, context):
        yield b"hello"
        await asyncio.sleep(3600)
    server = grpc.aio.server()
    handler = grpc.unary_stream_rpc_method_handler(talk)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Echo", {"Talk": handler}),))
    server.add_insecure_port(sys.argv[1])
    await server.start()
    await server.wait_for_termination()
asyncio.run(main())
"""


async def test_killed_peer_is_unavailable_at_once(tmp_path: Path) -> None:
    address = f"unix:{tmp_path}/peer.sock"
    peer = await asyncio.create_subprocess_exec(sys.executable, "-c", PEER, address)
    channel = ServiceChannel(
        open_channel(f"grpc:{address}", LocalNetwork()),
        signer=Roles().signer("gateway"),
        metrics=ClientMetrics(CollectorRegistry()),
        tracer=TracerProvider().get_tracer("test"),
        connect_wait=20,
    )
    try:
        call: Any = channel.unary_stream(ECHO)(b"")
        assert await anext(call) == b"hello"
        peer.kill()
        async with asyncio.timeout(10):
            error = await failure_of(anext(call))
    finally:
        if peer.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                peer.kill()
        await peer.wait()
        await channel.close()
    assert (error.kind, error.code) == (ErrorKind.UNAVAILABLE, "rpc_unavailable")


async def test_channel_made_before_its_server_waits_for_it(tmp_path: Path) -> None:
    roles, network, servicers = Roles(), LocalNetwork(), Servicers()
    tracer = TracerProvider().get_tracer("test")
    registry = CollectorRegistry()
    guard = CallGuard(verifier=roles.verifier(), metrics=ServerMetrics(registry), tracer=tracer)
    servicers.get_me = who_am_i
    metrics = ClientMetrics(registry)
    set_current_principal(USER)
    for target in ("local:late", f"grpc:unix:{tmp_path}/late.sock"):
        channel = ServiceChannel(
            open_channel(target, network), signer=roles.signer("gateway"), metrics=metrics, tracer=tracer, connect_wait=20
        )
        call = auth_pb2_grpc.AuthServiceStub(channel).GetMe(auth_pb2.GetMeRequest())
        await asyncio.sleep(0)
        server: grpc.aio.Server
        if target.startswith("local:"):
            server = network.server("late", interceptors=(guard,))
        else:
            server = grpc_server(guard)
            server.add_insecure_port(target.removeprefix("grpc:"))
        auth_pb2_grpc.add_AuthServiceServicer_to_server(servicers, server)
        await server.start()
        assert (await call).user.id == USER.subject
        await channel.close()
        await server.stop(0)
    set_current_principal(None)


async def test_calls_pass_over_tcp() -> None:
    roles, servicers = Roles(), Servicers()
    servicers.get_me = who_am_i
    tracer, registry = TracerProvider().get_tracer("test"), CollectorRegistry()
    server = grpc_server(CallGuard(verifier=roles.verifier(), metrics=ServerMetrics(registry), tracer=tracer))
    auth_pb2_grpc.add_AuthServiceServicer_to_server(servicers, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    inner = open_channel(f"grpc://127.0.0.1:{port}", LocalNetwork())
    signer = roles.signer("rag")
    async with ServiceChannel(inner, signer=signer, metrics=ClientMetrics(registry), tracer=tracer) as channel:
        with acting_as_service():
            response = await auth_pb2_grpc.AuthServiceStub(channel).GetMe(auth_pb2.GetMeRequest())
    await server.stop(0)
    assert response.user.id == "rag"


@pytest.mark.parametrize("unusable", ["bad\nid", "ünsendbar", "x" * 129])
async def test_request_id_that_cannot_be_sent_counts_as_none(rig: Rig, unusable: str) -> None:
    rig.servicers.get_me = who_am_i
    set_request_id(unusable)
    assert current_request_id() == ""
    assert (await rig.auth().GetMe(auth_pb2.GetMeRequest())).user.id == USER.subject


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
