"""The servicer's side of an exchange: its context, and how its handler is run."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from typing import Any, NoReturn

import grpc
import grpc.aio

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


class ExchangeContext:
    """The servicer's side of one call, with the interface of `grpc.aio.ServicerContext`."""

    def __init__(self, exchange: Exchange, peer: str) -> None:
        self._exchange = exchange
        self._peer = peer
        self._code = grpc.StatusCode.OK
        self._details = ""
        self._trailing: Metadata = ()
        self._abort: grpc.aio.AbortError | None = None
        self._callbacks: list[Callable[[Any], None]] = []
        self.handler: Any = None

    async def read(self) -> Any:
        raw = await self._exchange.requests.get()
        if raw is None:
            return grpc.aio.EOF
        deserialize: Deserializer | None = self.handler.request_deserializer
        return raw if deserialize is None else deserialize(raw)

    async def write(self, message: Any) -> None:
        if self._abort is not None:
            raise self._abort
        self._exchange.send_initial()
        serialize: Serializer | None = self.handler.response_serializer
        raw = encode(serialize, message)
        try:
            taken = await self._exchange.responses.put(raw)
        except MessageTooLargeError as error:
            await self.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, str(error))
        if not taken:
            raise grpc.aio.UsageError("RPC already finished.")

    async def send_initial_metadata(self, initial_metadata: Any) -> None:
        if self._exchange.initial_metadata is not None:
            raise grpc.aio.UsageError("Send initial metadata failed: already sent")
        self._exchange.send_initial(checked_metadata(initial_metadata))

    async def abort(self, code: grpc.StatusCode, details: str = "", trailing_metadata: Any = ()) -> NoReturn:
        if self._abort is not None:
            raise grpc.aio.UsageError("Abort already called!")
        self._code = code
        self._details = details or self._details
        self._trailing = checked_metadata(trailing_metadata) or self._trailing
        self._abort = grpc.aio.AbortError("Locally aborted.")
        # At once, as in gRPC: a servicer that swallows the exception cannot take it back.
        self._exchange.finish(CallStatus(self._code, self._details, self._trailing))
        raise self._abort

    async def abort_with_status(self, status: grpc.Status) -> NoReturn:
        await self.abort(status.code, status.details, status.trailing_metadata)

    def end(self) -> None:
        """Send the status the servicer set, OK by default."""
        self._exchange.finish(CallStatus(self._code, self._details, self._trailing))

    def run_callbacks(self) -> None:
        for callback in self._callbacks:
            callback(self)

    def set_trailing_metadata(self, trailing_metadata: Any) -> None:
        self._trailing = checked_metadata(trailing_metadata)

    def trailing_metadata(self) -> Any:
        return self._trailing

    def trailing_metadata_sent(self) -> Metadata:
        return self._trailing

    def invocation_metadata(self) -> Metadata:
        return self._exchange.metadata

    def set_code(self, code: grpc.StatusCode) -> None:
        self._code = code

    def code(self) -> grpc.StatusCode:
        return self._code

    def set_details(self, details: str) -> None:
        self._details = details

    def details(self) -> str:
        return self._details

    def set_compression(self, compression: grpc.Compression) -> None:
        """Nothing is compressed."""

    def disable_next_message_compression(self) -> None:
        """Nothing is compressed."""

    def peer(self) -> str:
        return self._peer

    def peer_identities(self) -> None:
        return None

    def peer_identity_key(self) -> None:
        return None

    def auth_context(self) -> Mapping[str, Iterable[bytes]]:
        return {}

    def time_remaining(self) -> float | None:
        return self._exchange.remaining()

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        self._callbacks.append(callback)

    def cancelled(self) -> bool:
        status = self._exchange.status
        return status is not None and status.code is grpc.StatusCode.CANCELLED

    def done(self) -> bool:
        return self._exchange.status is not None


async def run_handler(handler: Any, context: ExchangeContext) -> None:
    """Read the request, call the servicer, write its responses."""
    context.handler = handler
    if handler.request_streaming:
        request: Any = _request_stream(context)
        behaviour = handler.stream_stream if handler.response_streaming else handler.stream_unary
    else:
        request = await context.read()
        if request is grpc.aio.EOF:
            return
        behaviour = handler.unary_stream if handler.response_streaming else handler.unary_unary
    outcome = behaviour(request, context)
    if inspect.isasyncgen(outcome):
        try:
            async for response in outcome:
                await context.write(response)
        finally:
            await outcome.aclose()
        return
    if not inspect.isawaitable(outcome):
        raise TypeError("A servicer is a coroutine function or an asynchronous generator function.")
    response = await outcome
    if not handler.response_streaming and context.code() is grpc.StatusCode.OK:
        await context.write(response)


async def _request_stream(context: ExchangeContext) -> AsyncIterator[Any]:
    while (request := await context.read()) is not grpc.aio.EOF:
        yield request
