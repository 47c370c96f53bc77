"""The client side of every call, over local channels and gRPC channels alike."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterable, AsyncIterator, Callable, Generator, Iterable
from typing import Any, Self, cast

import grpc
import grpc.aio
from opentelemetry import trace

from wireroom_common.errors import WireroomError
from wireroom_common.principal import ANONYMOUS, Principal, current_principal
from wireroom_common.rpc.connecting import ConnectionWait
from wireroom_common.rpc.context import (
    current_client_address,
    current_request_id,
    idempotency_key_to_send,
    received_principal,
    remaining_time,
)
from wireroom_common.rpc.exchange import MAX_MESSAGE_BYTES, METADATA_BYTES
from wireroom_common.rpc.failures import error_from, unavailable_error
from wireroom_common.rpc.metrics import CANCELLED, OK, ClientMetrics
from wireroom_common.rpc.server import (
    CLIENT_ADDRESS_KEY,
    IDEMPOTENCY_KEY,
    REQUEST_ID_KEY,
    STREAM_DEADLINE,
    UNARY_DEADLINE,
)
from wireroom_common.rpc.signing import PRINCIPAL_KEY, PrincipalSigner

_RESERVED = frozenset({PRINCIPAL_KEY, REQUEST_ID_KEY, CLIENT_ADDRESS_KEY, IDEMPOTENCY_KEY, "traceparent", "tracestate"})


def grpc_channel(target: str, *, own_connection: bool = False) -> grpc.aio.Channel:
    """A plain gRPC channel with our limits and keepalive.

    `target`: "host:port" (all addresses of the name, in turn), "ipv4:address:port,address:port" (these, in turn), "ipv6:[address]:port"
    or "unix:/path". Channels of one target share its connections unless they have their own.
    """
    return grpc.aio.insecure_channel(
        target if target.startswith(("unix:", "ipv4:", "ipv6:")) else f"dns:///{target}",
        options=(
            ("grpc.lb_policy_name", "round_robin"),
            ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
            ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
            ("grpc.max_metadata_size", METADATA_BYTES),
            ("grpc.absolute_max_metadata_size", METADATA_BYTES),
            ("grpc.keepalive_time_ms", 20_000),
            ("grpc.keepalive_timeout_ms", 5_000),
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.http2.max_pings_without_data", 0),
            ("grpc.initial_reconnect_backoff_ms", 100),
            # Also the time one attempt to connect may take.
            ("grpc.min_reconnect_backoff_ms", 2_000),
            ("grpc.max_reconnect_backoff_ms", 2_000),
            ("grpc.enable_retries", 0),
            # Services of one installation are never behind the proxy that the environment names for the internet.
            ("grpc.enable_http_proxy", 0),
            ("grpc.use_local_subchannel_pool", int(own_connection)),
        ),
    )


class ServiceChannel(grpc.aio.Channel):
    """A channel whose calls carry principal, trace, request id and a deadline, and fail with `WireroomError` only.

    A call has the principal of its context: forwarded as it was received where it is the one being served, else signed here; anonymous
    if the context has none. Its deadline is `timeout=`, else the default, and never later than that of the call being served. Without
    a connection it waits `connect_wait` seconds for one, then fails UNAVAILABLE; nothing is retried. A cancelled call raises
    CancelledError where it is awaited, as usual in asyncio.
    """

    def __init__(
        self,
        inner: grpc.aio.Channel,
        *,
        signer: PrincipalSigner,
        metrics: ClientMetrics,
        tracer: trace.Tracer,
        unary_deadline: float = UNARY_DEADLINE,
        stream_deadline: float = STREAM_DEADLINE,
        connect_wait: float = 3.0,
    ) -> None:
        self._inner = inner
        self._signer = signer
        self._metrics = metrics
        self._tracer = tracer
        self._unary_deadline = unary_deadline
        self._stream_deadline = stream_deadline
        self._connecting = ConnectionWait(inner, connect_wait)

    def unary_unary(self, method: str, *args: Any, **kwargs: Any) -> grpc.aio.UnaryUnaryMultiCallable[Any, Any]:
        return cast(
            "grpc.aio.UnaryUnaryMultiCallable[Any, Any]",
            self._callable(method, self._inner.unary_unary(method, *args, **kwargs), self._unary_deadline),
        )

    def unary_stream(self, method: str, *args: Any, **kwargs: Any) -> grpc.aio.UnaryStreamMultiCallable[Any, Any]:
        return cast(
            "grpc.aio.UnaryStreamMultiCallable[Any, Any]",
            self._callable(method, self._inner.unary_stream(method, *args, **kwargs), self._stream_deadline),
        )

    def stream_unary(self, method: str, *args: Any, **kwargs: Any) -> grpc.aio.StreamUnaryMultiCallable[Any, Any]:
        return cast(
            "grpc.aio.StreamUnaryMultiCallable[Any, Any]",
            self._callable(
                method, self._inner.stream_unary(method, *args, **kwargs), self._stream_deadline, request_streaming=True
            ),
        )

    def stream_stream(self, method: str, *args: Any, **kwargs: Any) -> grpc.aio.StreamStreamMultiCallable[Any, Any]:
        return cast(
            "grpc.aio.StreamStreamMultiCallable[Any, Any]",
            self._callable(
                method, self._inner.stream_stream(method, *args, **kwargs), self._stream_deadline, request_streaming=True
            ),
        )

    def _callable(self, method: str, inner: Any, deadline: float, *, request_streaming: bool = False) -> Any:
        service, _, name = method.removeprefix("/").partition("/")

        def call(  # noqa: PLR0917 - signature of grpc
            request: Any = None,
            timeout: float | None = None,
            metadata: Iterable[tuple[str, str | bytes]] | None = None,
            credentials: grpc.CallCredentials | None = None,
            wait_for_ready: bool | None = None,  # noqa: FBT001 - signature of grpc
            compression: grpc.Compression | None = None,
        ) -> ServiceCall:
            limit = deadline if timeout is None else timeout
            remaining = remaining_time()
            if remaining is not None:
                limit = min(limit, remaining)
            connected = self._inner.get_state(try_to_connect=True) is grpc.ChannelConnectivity.READY
            observation = _Observation(self._tracer, self._metrics, service, name)
            try:
                inner_call = inner(
                    None if request_streaming else request,
                    timeout=limit,
                    metadata=tuple(self._metadata(metadata or (), limit, observation.span)),
                    credentials=credentials,
                    wait_for_ready=not connected if wait_for_ready is None else wait_for_ready,
                    compression=compression,
                )
            except BaseException as error:  # noqa: BLE001 - raised again, or what stands for it
                raise observation.failed(error) from None
            state = _CallState(inner_call, observation)
            if request_streaming and request is not None:
                state.helpers.append(asyncio.create_task(_pump(state, request)))
            if not connected:
                self._connecting.add(state)
            return ServiceCall(state)

        return call

    def _metadata(
        self, given: Iterable[tuple[str, str | bytes]], limit: float, span: trace.Span
    ) -> list[tuple[str, str | bytes]]:
        entries = [(key, value) for key, value in given if key not in _RESERVED]
        _add_trace(entries, span.get_span_context())
        entries.append((PRINCIPAL_KEY, self._signed_principal(limit)))
        request_id = current_request_id()
        if request_id:
            entries.append((REQUEST_ID_KEY, request_id))
        client_address = current_client_address()
        if client_address:
            entries.append((CLIENT_ADDRESS_KEY, client_address))
        idempotency_key = idempotency_key_to_send()
        if idempotency_key:
            entries.append((IDEMPOTENCY_KEY, idempotency_key))
        return entries

    def _signed_principal(self, limit: float) -> bytes:
        principal = _principal()
        received = received_principal()
        if received is not None and received.principal == principal:
            return received.signed
        return self._signer.sign(principal, outlives=limit)

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:  # noqa: FBT001, FBT002 - signature of grpc
        return self._inner.get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        await self._inner.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        """Return once there is a connection."""
        await self._inner.channel_ready()

    async def close(self, grace: float | None = None) -> None:
        """Take no more calls; cancel those in progress after `grace` seconds."""
        await self._inner.close(grace)
        await self._connecting.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self.close()


def _add_trace(entries: list[tuple[str, str | bytes]], context: trace.SpanContext) -> None:
    """W3C trace context, as the library's propagator writes it, without a context and a dictionary for each call."""
    if context.is_valid:
        entries.append(("traceparent", f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"))
        if context.trace_state:
            entries.append(("tracestate", context.trace_state.to_header()))


def _principal() -> Principal:
    try:
        return current_principal()
    except WireroomError:
        return ANONYMOUS


class _Observation:
    """Span and metrics of one call; the first `finish` counts."""

    def __init__(self, tracer: trace.Tracer, metrics: ClientMetrics, service: str, method: str) -> None:
        self._metrics = metrics
        self._service = service
        self._method = method
        self._started = time.monotonic()
        self._finished = False
        self.span = tracer.start_span(
            f"{service}/{method}",
            kind=trace.SpanKind.CLIENT,
            attributes={"rpc.system": "grpc", "rpc.service": service, "rpc.method": method},
        )

    def finish(self, kind: str) -> None:
        if self._finished:
            return
        self._finished = True
        self.span.set_attribute("wireroom.rpc.outcome", kind)
        if kind not in (OK, CANCELLED):
            self.span.set_status(trace.StatusCode.ERROR)
        self.span.end()
        self._metrics.observe(self._service, self._method, kind, time.monotonic() - self._started)

    def failed(self, error: BaseException) -> BaseException:
        """What to raise for an error at the start of the call, which is its end."""
        if isinstance(error, grpc.aio.UsageError):
            error = unavailable_error()
        self.finish(error.kind.value if isinstance(error, WireroomError) else "internal")
        return error


class _CallState:
    """What the helper tasks of a call need. They must not hold the call itself, whose disappearance cancels it."""

    def __init__(self, inner: Any, observation: _Observation) -> None:
        self.inner = inner
        self.observation = observation
        self.helpers: list[asyncio.Task[None]] = []
        # Why we cancelled the inner call ourselves, if we did.
        self.failure: BaseException | None = None

    def fail(self, failure: BaseException) -> None:
        if not self.inner.done():
            self.failure = failure
            self.inner.cancel()

    def finish(self, kind: str) -> None:
        self.observation.finish(kind)
        if not self.helpers:
            return
        current = asyncio.current_task()
        for helper in self.helpers:
            if helper is not current:
                helper.cancel()
        self.helpers.clear()

    def abandon(self) -> bool:
        cancelled: bool = self.inner.cancel()
        self.finish(CANCELLED)
        return cancelled


class ServiceCall:
    """One call: awaitable for its only response, or an asynchronous iterator over its responses.

    `cancel()`, `aclose()`, cancelling the task that waits for it, or dropping the object, gives the call up; the servicer then sees
    a CancelledError. An exception of the request iterator gives it up too and is raised here.
    """

    def __init__(self, state: _CallState) -> None:
        self._state = state
        self._responses: AsyncIterator[Any] | None = None

    def __del__(self) -> None:
        # Without a running loop (interpreter shutdown) there is nobody left to tell.
        if self._state.helpers or not self._state.inner.done():
            with contextlib.suppress(RuntimeError):
                self._state.abandon()
        self._state.observation.finish(CANCELLED)

    def __await__(self) -> Generator[Any, None, Any]:
        return self._only_response().__await__()

    async def _only_response(self) -> Any:
        response = await self._outcome(self._state.inner)
        self._state.finish(OK)
        return response

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        if self._responses is None:
            self._responses = self._state.inner.__aiter__()
        try:
            return await self._outcome(anext(self._responses))
        except StopAsyncIteration:
            self._state.finish(OK)
            raise

    async def aclose(self) -> None:
        """Give the call up unless it has ended."""
        self.cancel()

    async def read(self) -> Any:
        """The next response, or `grpc.aio.EOF`."""
        return await anext(self, grpc.aio.EOF)

    async def write(self, request: Any) -> None:
        """Send one request of a call that was started without a request iterator; waits while the server is behind.

        asyncio.InvalidStateError once the call has ended or `done_writing` was called; reading then tells how it ended.
        """
        await self._outcome(self._state.inner.write(request))

    async def done_writing(self) -> None:
        """End the stream of requests."""
        await self._outcome(self._state.inner.done_writing())

    async def _outcome(self, awaitable: Any) -> Any:
        try:
            return await awaitable
        except grpc.aio.AioRpcError as error:
            failure = error_from(error.code(), error.details(), error.trailing_metadata())
            self._state.finish(failure.kind.value)
            raise failure from None
        except asyncio.CancelledError:
            task = asyncio.current_task()
            cause = self._state.failure
            if cause is None or (task is not None and task.cancelling()):
                self._state.abandon()
                raise
            self._state.finish(cause.kind.value if isinstance(cause, WireroomError) else CANCELLED)
            raise cause from None

    def cancel(self) -> bool:
        """Give the call up; False if it had ended before."""
        return self._state.abandon() if not self._state.inner.done() else False

    def cancelled(self) -> bool:
        """Whether the call ended by cancellation."""
        return bool(self._state.inner.cancelled())

    def done(self) -> bool:
        """Whether the call has ended."""
        return bool(self._state.inner.done())

    def time_remaining(self) -> float | None:
        """Seconds until the deadline."""
        return cast("float | None", self._state.inner.time_remaining())

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        """Call `callback` with the inner call when the call ends."""
        self._state.inner.add_done_callback(callback)

    async def initial_metadata(self) -> grpc.aio.Metadata:
        """What the server sent before its first response."""
        return cast("grpc.aio.Metadata", await self._outcome(self._state.inner.initial_metadata()))

    async def trailing_metadata(self) -> grpc.aio.Metadata:
        """What the server sent with the status."""
        return cast("grpc.aio.Metadata", await self._outcome(self._state.inner.trailing_metadata()))

    async def code(self) -> grpc.StatusCode:
        """The status once the call has ended."""
        return cast("grpc.StatusCode", await self._outcome(self._state.inner.code()))

    async def details(self) -> str:
        """The status message once the call has ended."""
        return cast("str", await self._outcome(self._state.inner.details()))

    async def wait_for_connection(self) -> None:
        """Return when the call is under way."""
        await self._outcome(self._state.inner.wait_for_connection())


async def _pump(state: _CallState, requests: AsyncIterable[Any] | Iterable[Any]) -> None:
    """Send the requests. Unlike gRPC's own pump it ends with the call, and keeps the iterator's exception."""
    try:
        if isinstance(requests, AsyncIterable):
            async for request in requests:
                await state.inner.write(request)
        else:
            for request in requests:
                await state.inner.write(request)
        await state.inner.done_writing()
    except (grpc.aio.AioRpcError, grpc.aio.UsageError, asyncio.InvalidStateError):
        # The call is over; its status tells why.
        return
    except Exception as error:  # noqa: BLE001 - raised to the caller, where the response is awaited
        state.fail(error)
    finally:
        close = getattr(requests, "aclose", None)
        if close is not None:
            await close()
