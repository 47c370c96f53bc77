"""The server side of every call: principal, deadline, trace, error mapping, metrics, for local servers and for gRPC.

gRPC servers listen on insecure ports or Unix sockets: who calls is known by signed principals. Mutual TLS between processes comes
with the multi-host deployment.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Any, Self, cast

import grpc
import grpc.aio
import structlog
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health_aio
from opentelemetry import trace
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_common.principal import PrincipalKind
from wireroom_common.rpc.admission import STRANGER_SECONDS, UNGUARDED, Admission, CallBudget, HealthDoor, Refusal
from wireroom_common.rpc.context import (
    ReceivedPrincipal,
    current_request_id,
    receive_idempotency_key,
    set_client_address,
    set_received_principal,
    set_remaining_time,
    set_request_id,
)
from wireroom_common.rpc.exchange import MAX_MESSAGE_BYTES, METADATA_BYTES
from wireroom_common.rpc.failures import deadline_error, error_from, internal_error, status_of
from wireroom_common.rpc.metrics import CANCELLED, OK, UNIMPLEMENTED, ServerMetrics
from wireroom_common.rpc.multiplex.server import MultiplexServer
from wireroom_common.rpc.signing import PRINCIPAL_KEY, PrincipalVerifier

UNARY_DEADLINE = 10.0
STREAM_DEADLINE = 600.0
REQUEST_ID_KEY = "x-request-id"
CLIENT_ADDRESS_KEY = "x-client-address"
IDEMPOTENCY_KEY = "idempotency-key"
_ANONYMOUS = "principal_anonymous"

_log = structlog.get_logger(__name__)
_propagator = TraceContextTextMapPropagator()


class CallGuard(grpc.aio.ServerInterceptor):
    """Wraps each servicer method of every server. Who calls is asked before the request is read.

    A call without a valid signed principal ends UNAUTHENTICATED, as does an anonymous one to a method that is not in `public_rpcs`
    (full names, "/package.Service/Method"). A call without a deadline gets the default. A `WireroomError` reaches the client as it
    is; any other exception becomes a blank INTERNAL and is logged here. Cancellation reaches the servicer as CancelledError.
    """

    def __init__(
        self,
        *,
        verifier: PrincipalVerifier,
        metrics: ServerMetrics,
        tracer: trace.Tracer,
        public_rpcs: frozenset[str] = frozenset(),
        unary_deadline: float = UNARY_DEADLINE,
        stream_deadline: float = STREAM_DEADLINE,
    ) -> None:
        self._verifier = verifier
        self._metrics = metrics
        self._tracer = tracer
        self._public_rpcs = public_rpcs
        self._unary_deadline = unary_deadline
        self._stream_deadline = stream_deadline

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any) -> Any:
        method = handler_call_details.method
        handler = await continuation(handler_call_details)
        if handler is None:
            # The name comes from the caller and must not become a label.
            self._metrics.observe("unknown", "unknown", UNIMPLEMENTED, 0.0)
            return None
        if method.startswith(UNGUARDED):
            return handler
        try:
            received = self._received(method, handler_call_details.invocation_metadata)
        except WireroomError as error:
            return self._refusal(method, error)
        return self._wrap(method, handler, received)

    def knows(self, metadata: Iterable[tuple[str, str | bytes]] | None) -> bool:
        """Whether the metadata are signed by one of the installation's."""
        try:
            self._verified(metadata)
        except WireroomError:
            return False
        return True

    def _refusal(self, method: str, error: WireroomError) -> Refusal:
        """Ends the call before its request is read, let alone parsed: its caller is not known."""

        async def refuse(_requests: Any, context: Any) -> None:
            async def fail() -> None:
                raise error

            await self._serve(method, context, fail, self._unary_deadline, None)

        return Refusal(refuse, known=error.code == _ANONYMOUS)

    def _wrap(self, method: str, handler: Any, received: ReceivedPrincipal) -> Any:
        if handler.request_streaming and handler.response_streaming:
            behaviour, make = handler.stream_stream, grpc.stream_stream_rpc_method_handler
        elif handler.request_streaming:
            behaviour, make = handler.stream_unary, grpc.stream_unary_rpc_method_handler
        elif handler.response_streaming:
            behaviour, make = handler.unary_stream, grpc.unary_stream_rpc_method_handler
        else:
            behaviour, make = handler.unary_unary, grpc.unary_unary_rpc_method_handler
        streaming = handler.request_streaming or handler.response_streaming
        default_deadline = self._stream_deadline if streaming else self._unary_deadline

        async def guarded(request: Any, context: Any) -> Any:
            async def work() -> Any:
                outcome = behaviour(request, context)
                if handler.response_streaming and hasattr(outcome, "__aiter__"):
                    await _write_all(outcome, context)
                    return None
                return await outcome

            return await self._serve(method, context, work, default_deadline, received)

        # A coroutine that writes its responses serves both servers, and is cancelled where it waits.
        return cast("Any", make)(
            guarded, request_deserializer=handler.request_deserializer, response_serializer=handler.response_serializer
        )

    async def _serve(
        self,
        full_method: str,
        context: Any,
        work: Callable[[], Awaitable[Any]],
        default_deadline: float,
        received: ReceivedPrincipal | None,
    ) -> Any:
        service, _, method = full_method.removeprefix("/").partition("/")
        metadata: tuple[tuple[str, str | bytes], ...] = tuple(context.invocation_metadata() or ())
        loop = asyncio.get_running_loop()
        started = loop.time()
        kind = CANCELLED
        with self._tracer.start_as_current_span(
            f"{service}/{method}",
            context=_propagator.extract({key: value for key, value in metadata if isinstance(value, str)}),
            kind=trace.SpanKind.SERVER,
            attributes={"rpc.system": "grpc", "rpc.service": service, "rpc.method": method},
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            try:
                remaining: float | None = context.time_remaining()
                # With a deadline of the client's the server ends the call by itself.
                async with asyncio.timeout(default_deadline if remaining is None else None) as limit:
                    _open(full_method, metadata, default_deadline if remaining is None else remaining)
                    if received is not None:
                        set_received_principal(received)
                    response = await work()
                kind = _kind_of(context)
                return response  # noqa: TRY300 - the clauses below are about all of the above
            except grpc.aio.AbortError:
                kind = _kind_of(context)
                raise
            except asyncio.CancelledError:
                task = asyncio.current_task()
                if task is not None and task.cancelling():
                    raise
                # Something the servicer waited for was cancelled, not the call: gRPC would leave the client waiting.
                await context.abort(grpc.StatusCode.CANCELLED, "Cancelled by the server.")
            except WireroomError as error:
                kind = error.kind.value
                await _abort(context, error)
            except Exception as error:  # noqa: BLE001 - the border of the process: nothing unforeseen may pass it
                if isinstance(error, TimeoutError) and limit.expired():
                    kind = ErrorKind.DEADLINE.value
                    await _abort(context, deadline_error())
                if isinstance(error, NotImplementedError) and context.code() is grpc.StatusCode.UNIMPLEMENTED:
                    kind = UNIMPLEMENTED
                    await context.abort(grpc.StatusCode.UNIMPLEMENTED, "Method not implemented!")
                kind = ErrorKind.INTERNAL.value
                span.record_exception(error)
                _log.exception("rpc_failed", rpc=full_method, request_id=current_request_id(), trace_id=_trace_id(span))
                await _abort(context, internal_error())
            finally:
                span.set_attribute("wireroom.rpc.outcome", kind)
                if kind == ErrorKind.INTERNAL.value:
                    span.set_status(trace.StatusCode.ERROR)
                self._metrics.observe(service, method, kind, loop.time() - started)

    def _received(self, full_method: str, metadata: Iterable[tuple[str, str | bytes]] | None) -> ReceivedPrincipal:
        received = self._verified(metadata)
        if received.principal.kind is PrincipalKind.ANONYMOUS and full_method not in self._public_rpcs:
            raise WireroomError(ErrorKind.UNAUTHENTICATED, _ANONYMOUS, "This operation needs an authenticated caller.")
        return received

    def _verified(self, metadata: Iterable[tuple[str, str | bytes]] | None) -> ReceivedPrincipal:
        values = [value for key, value in metadata or () if key == PRINCIPAL_KEY]
        if len(values) != 1 or not isinstance(values[0], bytes):
            raise WireroomError(ErrorKind.UNAUTHENTICATED, "principal_missing", "The call carries no principal.")
        return ReceivedPrincipal(self._verifier.verify(values[0]), values[0])


def _open(full_method: str, metadata: Iterable[tuple[str, str | bytes]], remaining: float) -> None:
    """Set up the context of the call: its task is its own, so nothing needs resetting."""
    set_remaining_time(remaining)
    request_id = next((value for key, value in metadata if key == REQUEST_ID_KEY), "")
    set_request_id(request_id if isinstance(request_id, str) else "")
    client_address = next((value for key, value in metadata if key == CLIENT_ADDRESS_KEY), "")
    set_client_address(client_address if isinstance(client_address, str) else "")
    idempotency_key = next((value for key, value in metadata if key == IDEMPOTENCY_KEY), "")
    receive_idempotency_key(idempotency_key if isinstance(idempotency_key, str) else "", full_method)
    structlog.contextvars.bind_contextvars(request_id=current_request_id(), rpc=full_method)


async def _write_all(responses: AsyncIterator[Any], context: Any) -> None:
    try:
        async for response in responses:
            await context.write(response)
    finally:
        if inspect.isasyncgen(responses):
            await responses.aclose()


async def _abort(context: Any, error: WireroomError) -> None:
    code, message, trailing_metadata = status_of(error)
    # What the servicer has set to be sent at the end goes along.
    await context.abort(code, message, (*(context.trailing_metadata() or ()), *trailing_metadata))


def _kind_of(context: Any) -> str:
    """The outcome of a call whose servicer set the status itself, or none."""
    code = context.code()
    # gRPC answers None, or 0, as long as nobody set one.
    if not isinstance(code, grpc.StatusCode) or code is grpc.StatusCode.OK:
        return OK
    if code is grpc.StatusCode.CANCELLED:
        return CANCELLED
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return UNIMPLEMENTED
    return error_from(code, context.details(), context.trailing_metadata()).kind.value


def _trace_id(span: trace.Span) -> str:
    context = span.get_span_context()
    return trace.format_trace_id(context.trace_id) if context.is_valid else ""


def grpc_server(
    guard: CallGuard,
    *,
    max_concurrent_calls: int = 1000,
    max_connection_age: float = 300.0,
    max_connection_age_grace: float = STREAM_DEADLINE,
    stranger_seconds: float = STRANGER_SECONDS,
) -> grpc.aio.Server:
    """A gRPC server with the guard and our limits. Times in seconds; connections are renewed so that clients find new replicas.

    `max_concurrent_calls` holds for ordinary calls and those in streams of many together. Callers without a signature take no place of it:
    there are a few of their own for probes, watchers of the health and streams, which are ended after `stranger_seconds` without
    a signed call.
    Open a port with `add_insecure_port("127.0.0.1:0")` or `add_insecure_port("unix:/path")`.
    """
    interceptors = (Admission(CallBudget(max_concurrent_calls)), HealthDoor(), guard)
    inner = grpc.aio.server(
        interceptors=interceptors,
        options=(
            ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
            ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
            ("grpc.max_metadata_size", METADATA_BYTES),
            ("grpc.absolute_max_metadata_size", METADATA_BYTES),
            ("grpc.keepalive_time_ms", 20_000),
            ("grpc.keepalive_timeout_ms", 5_000),
            ("grpc.keepalive_permit_without_calls", 1),
            # Clients ping every 20 s; the default would take that for abuse.
            ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
            ("grpc.max_connection_age_ms", int(max_connection_age * 1000)),
            ("grpc.max_connection_age_grace_ms", int(max_connection_age_grace * 1000)),
            # Two processes on one port would share its calls at random.
            ("grpc.so_reuseport", 0),
        ),
    )
    # Before the connection's own end begins, so that no call in a stream is cut off by it.
    stream_age = max_connection_age * 0.8
    return MultiplexServer(
        inner, interceptors=interceptors, knows=guard.knows, stream_age=stream_age, stranger_seconds=stranger_seconds
    )


class Health:
    """`grpc.health.v1` on a server: NOT_SERVING until the first `set_ready(True)`."""

    def __init__(self, servicer: Any) -> None:
        self._servicer = servicer

    @classmethod
    async def attach(cls, server: grpc.aio.Server) -> Self:
        """Register the service on a server that has not started."""
        health = cls(health_aio.HealthServicer())
        # The library's servicer begins as SERVING.
        await health.set_ready(False)
        # For liveness probes: that the event loop answers, whatever the state of databases and brokers.
        await health._servicer.set("live", health_pb2.HealthCheckResponse.SERVING)
        health_pb2_grpc.add_HealthServicer_to_server(health._servicer, server)
        return health

    async def set_ready(self, ready: bool) -> None:  # noqa: FBT001 - the name says what the value means
        """Answer SERVING or NOT_SERVING from now on."""
        status = health_pb2.HealthCheckResponse.SERVING if ready else health_pb2.HealthCheckResponse.NOT_SERVING
        await self._servicer.set("", status)

    async def shut_down(self) -> None:
        """Answer NOT_SERVING for good: the first step of a graceful end."""
        await self._servicer.enter_graceful_shutdown()
