"""Calls inside one process, for the same generated stubs and servicers as over gRPC.

Every message is serialised and parsed, interceptors run, and deadlines, cancellation, metadata, status and flow control behave as
they do over a connection. Client and server share one event loop; servicers are coroutines or asynchronous generators.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self, cast

import grpc
import grpc.aio

from wireroom_common.rpc.admission import Admission, CallBudget
from wireroom_common.rpc.call_runner import CallRunner
from wireroom_common.rpc.exchange import (
    CallStatus,
    Deserializer,
    Exchange,
    MessageTooLargeError,
    Metadata,
    Serializer,
    checked_metadata,
    encode,
)
from wireroom_common.rpc.exchange_call import ExchangeCall


@dataclass(eq=False)
class _Endpoint:
    """The place of one service: calls wait here for its server if they may."""

    server: LocalServer | None = None
    ready: asyncio.Event = field(default_factory=asyncio.Event)


class LocalNetwork:
    """Service names and the servers behind them. Channels may be made before their servers."""

    def __init__(self) -> None:
        self._endpoints: dict[str, _Endpoint] = {}

    def channel(self, service: str) -> LocalChannel:
        """A channel to `service`, whether it is being served yet or not."""
        return LocalChannel(self._endpoint(service))

    def server(
        self,
        service: str,
        *,
        interceptors: Sequence[grpc.aio.ServerInterceptor] = (),
        max_concurrent_calls: int = 1000,
    ) -> LocalServer:
        """A server for `service`; calls reach it from its `start()` on."""
        return LocalServer(service, self._endpoint(service), interceptors=interceptors, max_concurrent_calls=max_concurrent_calls)

    def _endpoint(self, service: str) -> _Endpoint:
        return self._endpoints.setdefault(service, _Endpoint())


class LocalServer(grpc.aio.Server):
    """Accepted by the generated `add_<Service>Servicer_to_server`. More than `max_concurrent_calls` at once are refused, as by gRPC."""

    def __init__(
        self, service: str, endpoint: _Endpoint, *, interceptors: Sequence[grpc.aio.ServerInterceptor], max_concurrent_calls: int
    ) -> None:
        self._service = service
        self._endpoint = endpoint
        self._runner = CallRunner((Admission(CallBudget(max_concurrent_calls)), *interceptors))
        self._stopped = asyncio.Event()

    def add_generic_rpc_handlers(self, generic_rpc_handlers: Iterable[grpc.GenericRpcHandler]) -> None:
        self._runner.add_generic_rpc_handlers(generic_rpc_handlers)

    def add_registered_method_handlers(
        self, service_name: str, method_handlers: Mapping[str, grpc.RpcMethodHandler[Any, Any]]
    ) -> None:
        self._runner.add_registered_method_handlers(service_name, method_handlers)

    def add_insecure_port(self, address: str) -> int:
        raise grpc.aio.UsageError(f"A local server has no port ({address}).")

    def add_secure_port(self, address: str, server_credentials: grpc.ServerCredentials) -> int:  # noqa: ARG002 - signature of grpc
        raise grpc.aio.UsageError(f"A local server has no port ({address}).")

    async def start(self) -> None:
        """Take calls. UsageError if another server has the name."""
        if self._endpoint.server is not None:
            raise grpc.aio.UsageError(f"The service {self._service} is served already.")
        self._runner.keep_context()
        self._endpoint.server = self
        self._endpoint.ready.set()

    async def stop(self, grace: float | None) -> None:
        """Refuse new calls, wait `grace` seconds for those in progress, then cancel them (their clients see UNAVAILABLE)."""
        if self._endpoint.server is self:
            self._endpoint.server = None
            self._endpoint.ready.clear()
        await self._runner.stop(grace)
        self._stopped.set()

    async def wait_for_termination(self, timeout: float | None = None) -> bool:  # noqa: ASYNC109 - signature of grpc
        """Wait for `stop`; True if the time ran out first, as in gRPC."""
        try:
            async with asyncio.timeout(timeout):
                await self._stopped.wait()
        except TimeoutError:
            return True
        return False

    def accept(self, exchange: Exchange) -> None:
        """Serve one call."""
        self._runner.accept(exchange, f"local:{self._service}")


class _MultiCallable:
    def __init__(
        self,
        channel: LocalChannel,
        method: str,
        serialize: Serializer | None,
        deserialize: Deserializer | None,
        *,
        request_streaming: bool,
    ) -> None:
        self._channel = channel
        self._method = method
        self._serialize = serialize
        self._deserialize = deserialize
        self._request_streaming = request_streaming

    def __call__(  # noqa: PLR0917 - signature of grpc
        self,
        request: Any = None,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,  # noqa: FBT001 - signature of grpc
        compression: grpc.Compression | None = None,
    ) -> ExchangeCall:
        if credentials is not None or compression not in (None, grpc.Compression.NoCompression):
            raise grpc.aio.UsageError("Calls inside a process take neither credentials nor compression.")
        checked = checked_metadata(metadata)
        if self._request_streaming:
            exchange = self._channel.open(self._method, timeout, checked, wait=bool(wait_for_ready))
            return ExchangeCall(exchange, self._serialize, self._deserialize, request)
        message = encode(self._serialize, request)
        exchange = self._channel.open(self._method, timeout, checked, wait=bool(wait_for_ready))
        try:
            exchange.requests.offer(message)
        except MessageTooLargeError as error:
            exchange.give_up(CallStatus(grpc.StatusCode.RESOURCE_EXHAUSTED, str(error)))
        exchange.requests.close()
        return ExchangeCall(exchange, self._serialize, self._deserialize, None)


class LocalChannel(grpc.aio.Channel):
    """A channel to one service of a `LocalNetwork`, for the generated stubs."""

    def __init__(self, endpoint: _Endpoint) -> None:
        self._endpoint = endpoint
        self._closed = False
        self._open: set[Exchange] = set()
        self._connecting: set[asyncio.Task[None]] = set()

    def open(self, method: str, timeout: float | None, metadata: Metadata, *, wait: bool) -> Exchange:
        """Start a call; with `wait` it waits for its server until the deadline, else it fails with UNAVAILABLE without one."""
        if self._closed:
            raise grpc.aio.UsageError("Channel is closed.")
        loop = asyncio.get_running_loop()
        exchange = Exchange(method, metadata, None if timeout is None else loop.time() + timeout)
        exchange.watch_deadline()
        self._open.add(exchange)
        exchange.callbacks.append(functools.partial(self._open.discard, exchange))
        if self._endpoint.server is not None:
            self._endpoint.server.accept(exchange)
        elif wait:
            task = loop.create_task(self._connect(exchange))
            self._connecting.add(task)
            exchange.task = task
            task.add_done_callback(self._connecting.discard)
        else:
            exchange.finish(CallStatus(grpc.StatusCode.UNAVAILABLE, "The service is not being served."))
        return exchange

    async def _connect(self, exchange: Exchange) -> None:
        while self._endpoint.server is None:
            await self._endpoint.ready.wait()
        self._endpoint.server.accept(exchange)

    def unary_unary(
        self,
        method: str,
        request_serializer: Serializer | None = None,
        response_deserializer: Deserializer | None = None,
        _registered_method: bool | None = False,  # noqa: FBT001, FBT002 - signature of grpc
    ) -> grpc.aio.UnaryUnaryMultiCallable[Any, Any]:
        return cast(
            "grpc.aio.UnaryUnaryMultiCallable[Any, Any]",
            self._callable(method, request_serializer, response_deserializer, request_streaming=False),
        )

    def unary_stream(
        self,
        method: str,
        request_serializer: Serializer | None = None,
        response_deserializer: Deserializer | None = None,
        _registered_method: bool | None = False,  # noqa: FBT001, FBT002 - signature of grpc
    ) -> grpc.aio.UnaryStreamMultiCallable[Any, Any]:
        return cast(
            "grpc.aio.UnaryStreamMultiCallable[Any, Any]",
            self._callable(method, request_serializer, response_deserializer, request_streaming=False),
        )

    def stream_unary(
        self,
        method: str,
        request_serializer: Serializer | None = None,
        response_deserializer: Deserializer | None = None,
        _registered_method: bool | None = False,  # noqa: FBT001, FBT002 - signature of grpc
    ) -> grpc.aio.StreamUnaryMultiCallable[Any, Any]:
        return cast(
            "grpc.aio.StreamUnaryMultiCallable[Any, Any]",
            self._callable(method, request_serializer, response_deserializer, request_streaming=True),
        )

    def stream_stream(
        self,
        method: str,
        request_serializer: Serializer | None = None,
        response_deserializer: Deserializer | None = None,
        _registered_method: bool | None = False,  # noqa: FBT001, FBT002 - signature of grpc
    ) -> grpc.aio.StreamStreamMultiCallable[Any, Any]:
        return cast(
            "grpc.aio.StreamStreamMultiCallable[Any, Any]",
            self._callable(method, request_serializer, response_deserializer, request_streaming=True),
        )

    def _callable(
        self, method: str, serialize: Serializer | None, deserialize: Deserializer | None, *, request_streaming: bool
    ) -> _MultiCallable:
        return _MultiCallable(self, method, serialize, deserialize, request_streaming=request_streaming)

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:  # noqa: ARG002, FBT001, FBT002 - signature of grpc
        if self._closed:
            return grpc.ChannelConnectivity.SHUTDOWN
        return grpc.ChannelConnectivity.TRANSIENT_FAILURE if self._endpoint.server is None else grpc.ChannelConnectivity.READY

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        """Return once the state is another; of the changes only that to READY is waited for."""
        while self.get_state() is last_observed_state:
            if last_observed_state is not grpc.ChannelConnectivity.TRANSIENT_FAILURE:
                raise grpc.aio.UsageError("Only the start of a service can be waited for.")
            await self._endpoint.ready.wait()

    async def channel_ready(self) -> None:
        """Return once the service is being served."""
        await self._endpoint.ready.wait()

    async def close(self, grace: float | None = None) -> None:
        """Take no more calls; cancel those in progress after `grace` seconds."""
        self._closed = True
        if self._open and grace:
            waiting = [asyncio.ensure_future(exchange.done.wait()) for exchange in self._open]
            _, late = await asyncio.wait(waiting, timeout=grace)
            for wait in late:
                wait.cancel()
        for exchange in list(self._open):
            exchange.cancel()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self.close()
