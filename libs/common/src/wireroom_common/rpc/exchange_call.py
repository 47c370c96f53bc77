"""The client's handle of an exchange, with the interface of the calls of `grpc.aio`."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterable, AsyncIterator, Callable, Generator, Iterable
from typing import Any

import grpc
import grpc.aio

from wireroom_common.rpc.exchange import CallStatus, Deserializer, Exchange, MessageTooLargeError, Serializer, encode


class ExchangeCall:
    """The client's handle: awaitable, or iterable, as `grpc.aio` calls are. Dropping it cancels the call."""

    def __init__(
        self,
        exchange: Exchange,
        serialize: Serializer | None,
        deserialize: Deserializer | None,
        requests: AsyncIterable[Any] | Iterable[Any] | None,
    ) -> None:
        self._exchange = exchange
        self._serialize = serialize
        self._deserialize = deserialize
        self._response: list[Any] = []
        self._iterator: AsyncIterator[Any] | None = None
        self._pump: asyncio.Task[None] | None = None
        if requests is not None:
            self._pump = asyncio.get_running_loop().create_task(_pump(exchange, requests, serialize))

    def __del__(self) -> None:
        # Without a running loop (interpreter shutdown) there is nobody left to tell.
        if self._exchange.status is None:
            with contextlib.suppress(RuntimeError):
                self.cancel()

    def __await__(self) -> Generator[Any, None, Any]:
        return self._only_response().__await__()

    async def _only_response(self) -> Any:
        if not self._response:
            await self._ended()
            self._raise_for_status()
            raw = await self._exchange.responses.get()
            if raw is None:
                raise grpc.aio.AioRpcError(grpc.StatusCode.INTERNAL, details="The call ended without a response.")
            self._response.append(self._decode(raw))
        return self._response[0]

    async def _ended(self) -> None:
        try:
            await self._exchange.done.wait()
        except asyncio.CancelledError:
            self.cancel()
            raise

    def __aiter__(self) -> AsyncIterator[Any]:
        if self._iterator is None:
            self._iterator = _responses(self._exchange, self._decode)
        return self._iterator

    async def read(self) -> Any:
        """The next response, or `grpc.aio.EOF`."""
        return await anext(aiter(self), grpc.aio.EOF)

    async def write(self, request: Any) -> None:
        """Send one request; waits while the server is behind."""
        if not await _send(self._exchange, encode(self._serialize, request)):
            self._raise_for_status()
            raise asyncio.InvalidStateError("The call no longer takes requests.")

    async def done_writing(self) -> None:
        """End the stream of requests."""
        self._exchange.requests.close()

    def cancel(self) -> bool:
        """Give the call up; the servicer sees a CancelledError. False if it had ended before."""
        if self._pump is not None:
            self._pump.cancel()
        return self._exchange.cancel()

    def cancelled(self) -> bool:
        """Whether the call ended by cancellation, from either side."""
        status = self._exchange.status
        return status is not None and status.code is grpc.StatusCode.CANCELLED

    def done(self) -> bool:
        """Whether the call has ended."""
        return self._exchange.status is not None

    def time_remaining(self) -> float | None:
        """Seconds until the deadline; None without one."""
        return self._exchange.remaining()

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        """Call `callback(call)` when the call ends, soon if it has."""
        if self.done():
            asyncio.get_running_loop().call_soon(callback, self)
        else:
            self._exchange.callbacks.append(lambda: callback(self))

    async def initial_metadata(self) -> grpc.aio.Metadata:
        """What the server sent before its first response."""
        await self._exchange.initial_sent.wait()
        return grpc.aio.Metadata(*(self._exchange.initial_metadata or ()))

    async def trailing_metadata(self) -> grpc.aio.Metadata:
        """What the server sent with the status."""
        await self._exchange.done.wait()
        return grpc.aio.Metadata(*self._exchange.final_status().trailing_metadata)

    async def code(self) -> grpc.StatusCode:
        """The status once the call has ended."""
        await self._exchange.done.wait()
        return self._exchange.final_status().code

    async def details(self) -> str:
        """The status message once the call has ended."""
        await self._exchange.done.wait()
        return self._exchange.final_status().details

    async def wait_for_connection(self) -> None:
        """Return when the call is under way; its error if it could not start."""
        await self._exchange.initial_sent.wait()
        if self.done():
            self._raise_for_status()

    def _raise_for_status(self) -> None:
        raise_for_status(self._exchange)

    def _decode(self, raw: bytes) -> Any:
        return raw if self._deserialize is None else self._deserialize(raw)


def raise_for_status(exchange: Exchange) -> None:
    """CancelledError after a local cancellation, AioRpcError for any other end but OK."""
    if exchange.locally_cancelled:
        raise asyncio.CancelledError
    status = exchange.final_status()
    if status.code is not grpc.StatusCode.OK:
        raise grpc.aio.AioRpcError(
            status.code,
            grpc.aio.Metadata(*(exchange.initial_metadata or ())),
            grpc.aio.Metadata(*status.trailing_metadata),
            details=status.details,
        )


async def _responses(exchange: Exchange, decode: Deserializer) -> AsyncIterator[Any]:
    try:
        while (raw := await exchange.responses.get()) is not None:
            yield decode(raw)
        await exchange.done.wait()
    except asyncio.CancelledError:
        exchange.cancel()
        raise
    raise_for_status(exchange)


async def _pump(exchange: Exchange, requests: AsyncIterable[Any] | Iterable[Any], serialize: Serializer | None) -> None:
    try:
        if isinstance(requests, AsyncIterable):
            async for request in requests:
                if not await _send(exchange, encode(serialize, request)):
                    return
        else:
            for request in requests:
                if not await _send(exchange, encode(serialize, request)):
                    return
    except BaseException:
        # As in gRPC: a client that cannot produce its requests gives the call up.
        exchange.cancel()
        raise
    exchange.requests.close()


async def _send(exchange: Exchange, message: bytes) -> bool:
    try:
        return await exchange.requests.put(message)
    except MessageTooLargeError as error:
        exchange.give_up(CallStatus(grpc.StatusCode.RESOURCE_EXHAUSTED, str(error)))
        return False
