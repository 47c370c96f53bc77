"""The client's channel: each call goes into the stream of the next address, or by ordinary gRPC where it must."""

from __future__ import annotations

import asyncio
import contextvars
from typing import Any, Self, cast

import grpc
import grpc.aio

from wireroom_common.rpc.client import grpc_channel
from wireroom_common.rpc.exchange import CallStatus, Deserializer, Metadata, Serializer, checked_metadata, encode
from wireroom_common.rpc.exchange_call import ExchangeCall
from wireroom_common.rpc.multiplex.link import SentExchange
from wireroom_common.rpc.multiplex.pool import LinkPool
from wireroom_common.rpc.multiplex.wire import MAX_REQUEST_BYTES
from wireroom_common.rpc.signing import PrincipalSigner

# Far above what one server takes: a bound for memory when calls pile up behind peers that are slow or away.
_MAX_CALLS = 4096
_READY = grpc.ChannelConnectivity.READY


class MultiplexChannel(grpc.aio.Channel):
    """A channel to all addresses of `target`, written as for `grpc_channel`, in turn.

    Calls with one request of at most 64 KiB go into streams; the others, and those to peers that know no streams, go by ordinary gRPC.
    Without a connection a call waits for one if it may (`wait_for_ready`), else fails UNAVAILABLE once no address can be reached.
    When a connection is lost the calls in it fail UNAVAILABLE at once. More than 4,096 calls in progress are RESOURCE_EXHAUSTED.
    """

    def __init__(self, target: str, *, signer: PrincipalSigner | None = None) -> None:
        self._pool = LinkPool(target, self._changed, signer)
        # Connects when the first call needs it.
        self._ordinary = grpc_channel(target)
        self._closed = False
        self._open: set[SentExchange] = set()
        # Calls that wait for a connection: their request, and whether they wait for as long as it takes.
        self._waiting: dict[SentExchange, tuple[bytes, bool]] = {}
        self._ordinary_calls: set[asyncio.Task[None]] = set()
        self._change = asyncio.Event()

    def unary_unary(
        self,
        method: str,
        request_serializer: Serializer | None = None,
        response_deserializer: Deserializer | None = None,
        _registered_method: bool | None = False,  # noqa: FBT001, FBT002 - signature of grpc
    ) -> grpc.aio.UnaryUnaryMultiCallable[Any, Any]:
        ordinary: Any = self._ordinary.unary_unary(method, None, response_deserializer)
        callable_ = self._callable(method, request_serializer, response_deserializer, ordinary)
        return cast("grpc.aio.UnaryUnaryMultiCallable[Any, Any]", callable_)

    def unary_stream(
        self,
        method: str,
        request_serializer: Serializer | None = None,
        response_deserializer: Deserializer | None = None,
        _registered_method: bool | None = False,  # noqa: FBT001, FBT002 - signature of grpc
    ) -> grpc.aio.UnaryStreamMultiCallable[Any, Any]:
        ordinary: Any = self._ordinary.unary_stream(method, None, response_deserializer)
        callable_ = self._callable(method, request_serializer, response_deserializer, ordinary)
        return cast("grpc.aio.UnaryStreamMultiCallable[Any, Any]", callable_)

    def stream_unary(
        self,
        method: str,
        request_serializer: Serializer | None = None,
        response_deserializer: Deserializer | None = None,
        _registered_method: bool | None = False,  # noqa: FBT001, FBT002 - signature of grpc
    ) -> grpc.aio.StreamUnaryMultiCallable[Any, Any]:
        return self._ordinary.stream_unary(method, request_serializer, response_deserializer)

    def stream_stream(
        self,
        method: str,
        request_serializer: Serializer | None = None,
        response_deserializer: Deserializer | None = None,
        _registered_method: bool | None = False,  # noqa: FBT001, FBT002 - signature of grpc
    ) -> grpc.aio.StreamStreamMultiCallable[Any, Any]:
        return self._ordinary.stream_stream(method, request_serializer, response_deserializer)

    def _callable(self, method: str, serialize: Serializer | None, deserialize: Deserializer | None, ordinary: Any) -> Any:
        def call(  # noqa: PLR0917 - signature of grpc
            request: Any,
            timeout: float | None = None,
            metadata: Any = None,
            credentials: grpc.CallCredentials | None = None,
            wait_for_ready: bool | None = None,  # noqa: FBT001 - signature of grpc
            compression: grpc.Compression | None = None,
        ) -> Any:
            message = encode(serialize, request)
            plain = credentials is None and compression in (None, grpc.Compression.NoCompression)
            if not plain or len(message) > MAX_REQUEST_BYTES:
                return ordinary(
                    message,
                    timeout=timeout,
                    metadata=metadata,
                    credentials=credentials,
                    wait_for_ready=wait_for_ready,
                    compression=compression,
                )
            exchange = self._send(method, message, timeout, checked_metadata(metadata), wait=bool(wait_for_ready))
            return ExchangeCall(exchange, serialize, deserialize, None)

        return call

    def _send(self, method: str, request: bytes, timeout: float | None, metadata: Metadata, *, wait: bool) -> SentExchange:
        if self._closed:
            raise grpc.aio.UsageError("Channel is closed.")
        deadline = None if timeout is None else asyncio.get_running_loop().time() + timeout
        exchange = SentExchange(method, metadata, deadline, self._ended)
        if len(self._open) >= _MAX_CALLS:
            exchange.finish(CallStatus(grpc.StatusCode.RESOURCE_EXHAUSTED, "Too many calls in progress."))
            return exchange
        self._open.add(exchange)
        exchange.watch_deadline()
        state = self._pool.state()
        if state is _READY:
            self._start(exchange, request, wait=wait)
        elif wait or state is not grpc.ChannelConnectivity.TRANSIENT_FAILURE:
            self._waiting[exchange] = request, wait
            self._pool.start()
        else:
            exchange.finish(_unreachable())
        return exchange

    def _start(self, exchange: SentExchange, request: bytes, *, wait: bool) -> None:
        link = self._pool.pick()
        if link is not None and link.has_room:
            link.start(exchange, request)
        else:
            # A context of its own: see the servers' side.
            work = self._call_ordinarily(exchange, request, wait=wait)
            task = exchange.task = asyncio.get_running_loop().create_task(work, context=contextvars.Context())
            self._ordinary_calls.add(task)
            task.add_done_callback(self._ordinary_calls.discard)

    async def _call_ordinarily(self, exchange: SentExchange, request: bytes, *, wait: bool) -> None:
        ordinary: Any = self._ordinary.unary_stream(exchange.method)
        metadata = grpc.aio.Metadata(*exchange.metadata)
        call = ordinary(request, timeout=exchange.remaining(), metadata=metadata, wait_for_ready=wait)
        try:
            exchange.send_initial(tuple(await call.initial_metadata()))
            async for message in call:
                await exchange.incoming.put(message)
        except grpc.aio.AioRpcError:
            # The status tells it.
            pass
        except Exception as error:  # noqa: BLE001 - the border of the task: whoever waits for the call must learn that it is over
            exchange.finish(CallStatus(grpc.StatusCode.INTERNAL, f"The call failed: {type(error).__name__}."))
        finally:
            # Cancelled: the exchange has ended, and its ordinary call ends with it.
            call.cancel()
        exchange.finish(CallStatus(await call.code(), await call.details() or "", tuple(await call.trailing_metadata() or ())))

    def _ended(self, exchange: SentExchange) -> None:
        self._open.discard(exchange)
        self._waiting.pop(exchange, None)

    def _changed(self) -> None:
        state = self._pool.state()
        if state is _READY:
            waiting, self._waiting = self._waiting, {}
            for exchange, (request, wait) in waiting.items():
                self._start(exchange, request, wait=wait)
        elif state is grpc.ChannelConnectivity.TRANSIENT_FAILURE:
            for exchange in [exchange for exchange, (_, wait) in self._waiting.items() if not wait]:
                exchange.finish(_unreachable())
        change, self._change = self._change, asyncio.Event()
        change.set()

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:  # noqa: FBT001, FBT002 - signature of grpc
        if self._closed:
            return grpc.ChannelConnectivity.SHUTDOWN
        if self._pool.has_links:
            return _READY
        if self._pool.has_plain_peers:
            return self._ordinary.get_state(try_to_connect)
        if try_to_connect:
            self._pool.start()
        return self._pool.state()

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        """Return once the state is another."""
        while self.get_state() is last_observed_state:
            await self._next_change(last_observed_state)

    async def channel_ready(self) -> None:
        """Return once there is a connection."""
        while (state := self.get_state(try_to_connect=True)) is not _READY:
            if self._closed:
                raise grpc.aio.UsageError("Channel is closed.")
            await self._next_change(state)

    async def _next_change(self, state: grpc.ChannelConnectivity) -> None:
        waits: list[asyncio.Task[Any]] = [asyncio.create_task(self._change.wait())]
        if self._pool.has_plain_peers:
            waits.append(asyncio.create_task(self._ordinary.wait_for_state_change(state)))
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
            # That of a channel which was closed fails; the caller asks for the state again.
            await asyncio.gather(*waits, return_exceptions=True)

    async def close(self, grace: float | None = None) -> None:
        """Take no more calls; cancel those in progress after `grace` seconds."""
        if self._closed:
            return
        self._closed = True
        if self._open and grace:
            waiting = [asyncio.create_task(exchange.done.wait()) for exchange in self._open]
            _, late = await asyncio.wait(waiting, timeout=grace)
            for wait in late:
                wait.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        for exchange in list(self._open):
            exchange.cancel()
        await asyncio.gather(*self._ordinary_calls, return_exceptions=True)
        await self._pool.close()
        await self._ordinary.close()
        self._change.set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self.close()


def _unreachable() -> CallStatus:
    return CallStatus(grpc.StatusCode.UNAVAILABLE, "No address can be reached.")
