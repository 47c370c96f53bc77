"""The server's end: a gRPC server that offers its methods in streams of many calls as well."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import grpc
import grpc.aio

from wireroom_common.rpc.call_runner import CallRunner
from wireroom_common.rpc.exchange import CallStatus, Exchange, Metadata
from wireroom_common.rpc.multiplex.outbox import MAX_ENVELOPES, Outbox
from wireroom_common.rpc.multiplex.pipes import OutgoingPipe
from wireroom_common.rpc.multiplex.wire import (
    ENVELOPE_COST,
    MAX_REQUEST_BYTES,
    BadMetadataError,
    add_metadata,
    read_metadata,
    write_end,
)
from wireroom_protos.common.v1 import multiplex_pb2, multiplex_pb2_grpc

_MAX_TIMEOUT = 30 * 24 * 3600.0
# What waits for one client before its servicers wait for it.
_OUTBOX_BYTES = 1024 * 1024
_CLIENT_GONE = CallStatus(grpc.StatusCode.CANCELLED, "The client is gone.")


class _ServedExchange(Exchange):
    """A call that came in a stream."""

    def __init__(self, stream: _Stream, call: int, opened: multiplex_pb2.OpenCall, metadata: Metadata) -> None:
        deadline = None
        if opened.HasField("timeout"):
            deadline = asyncio.get_running_loop().time() + min(opened.timeout, _MAX_TIMEOUT)
        self.outgoing = OutgoingPipe(stream.outbox, call, opened.credit)
        super().__init__(opened.method, metadata, deadline, responses=self.outgoing)
        self._stream = stream
        self._call = call

    def send_initial(self, metadata: Metadata = ()) -> None:
        if self.initial_metadata is None and metadata:
            add_metadata(self._stream.outbox.batch(ENVELOPE_COST).envelopes.add(call=self._call).initial.metadata, metadata)
        super().send_initial(metadata)

    def finish(self, status: CallStatus) -> bool:
        if not super().finish(status):
            return False
        self._stream.end(self._call, status)
        return True


class _Stream:
    """One client's stream and the calls in it."""

    def __init__(self, runner: CallRunner, context: Any) -> None:
        self.outbox = Outbox(multiplex_pb2.ConnectResponse, capacity=_OUTBOX_BYTES)
        self._runner = runner
        self._context = context
        # As its connection's, so that servicers cannot tell.
        self._peer = context.peer()
        self._calls: dict[int, _ServedExchange] = {}

    async def serve(self) -> None:
        """Until the client closes its side, or is gone."""
        self.outbox.batch(ENVELOPE_COST).envelopes.add().hello.SetInParent()
        writing = asyncio.get_running_loop().create_task(self.outbox.write_all(self._context.write))
        try:
            while (batch := await self._context.read()) is not grpc.aio.EOF:
                # Each may be answered at once, and only between batches is it asked whether the answers leave.
                if len(batch.envelopes) > MAX_ENVELOPES:
                    await self._context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "Too many envelopes at once.")
                for envelope in batch.envelopes:
                    self._receive(envelope)
                # A client that does not read what it is answered gets no further calls.
                await self.outbox.room()
        finally:
            for exchange in list(self._calls.values()):
                exchange.give_up(_CLIENT_GONE)
            writing.cancel()
            with contextlib.suppress(asyncio.CancelledError, grpc.aio.UsageError, grpc.aio.InternalError):
                await writing

    def drain(self) -> None:
        """Ask the client for its next calls to be elsewhere."""
        self.outbox.batch(ENVELOPE_COST).envelopes.add(drain=True)

    def end(self, call: int, status: CallStatus) -> None:
        """Tell the client how a call ended, unless it has given it up."""
        if self._calls.pop(call, None) is not None:
            size = ENVELOPE_COST + sum(len(value) for _, value in status.trailing_metadata)
            write_end(self.outbox.batch(size).envelopes.add(call=call).end, status)

    def _receive(self, envelope: multiplex_pb2.ClientEnvelope) -> None:
        kind = envelope.WhichOneof("content")
        if kind == "open":
            self._open(envelope.call, envelope.open)
            return
        exchange = self._calls.get(envelope.call)
        if exchange is None:
            # It has ended; the client did not know yet.
            return
        if kind == "credit":
            exchange.outgoing.grant(envelope.credit)
        elif kind == "cancel":
            del self._calls[envelope.call]
            exchange.give_up(CallStatus(grpc.StatusCode.CANCELLED, "Cancelled by the client."))

    def _open(self, call: int, opened: multiplex_pb2.OpenCall) -> None:
        if call in self._calls:
            self._calls[call].give_up(CallStatus(grpc.StatusCode.INTERNAL, "The number of the call was used twice."))
            return
        try:
            metadata = read_metadata(opened.metadata)
        except BadMetadataError as error:
            self._refuse(call, CallStatus(grpc.StatusCode.RESOURCE_EXHAUSTED, str(error)))
            return
        if len(opened.request) > MAX_REQUEST_BYTES:
            self._refuse(call, CallStatus(grpc.StatusCode.RESOURCE_EXHAUSTED, "Received message larger than max for a stream."))
            return
        # One that is no number has passed as well.
        if opened.HasField("timeout") and not opened.timeout > 0:
            self._refuse(call, CallStatus(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded"))
            return
        exchange = _ServedExchange(self, call, opened, metadata)
        self._calls[call] = exchange
        exchange.requests.offer(opened.request)
        exchange.requests.close()
        exchange.watch_deadline()
        self._runner.accept(exchange, self._peer)

    def _refuse(self, call: int, status: CallStatus) -> None:
        write_end(self.outbox.batch(ENVELOPE_COST).envelopes.add(call=call).end, status)


class _Servicer(multiplex_pb2_grpc.MultiplexServiceServicer):
    """`Connect`: a transport like a connection, which needs no principal; every call in it does."""

    def __init__(self, runner: CallRunner, stream_age: float) -> None:
        self._runner = runner
        self._stream_age = stream_age
        self._streams: set[_Stream] = set()

    async def Connect(self, request_iterator: Any, context: Any) -> None:  # type: ignore[override]  # noqa: ARG002, N802 - read and written through the context, at the same time
        stream = _Stream(self._runner, context)
        self._streams.add(stream)
        # Spread, so that clients that came together do not come back together.
        timer = asyncio.get_running_loop().call_later(self._stream_age * random.uniform(0.9, 1.0), stream.drain)  # noqa: S311 - no secret
        try:
            await stream.serve()
        finally:
            timer.cancel()
            self._streams.discard(stream)

    def drain(self) -> None:
        """Ask all clients for their next calls to be elsewhere."""
        for stream in self._streams:
            stream.drain()


class MultiplexServer(grpc.aio.Server):
    """`inner`, with its methods offered in streams of many calls too. Both ways run the same interceptors.

    At most `max_concurrent_calls` run that came in streams. Clients are asked to begin a new stream after `stream_age` seconds.
    """

    def __init__(
        self,
        inner: grpc.aio.Server,
        *,
        interceptors: Sequence[grpc.aio.ServerInterceptor],
        max_concurrent_calls: int,
        stream_age: float,
    ) -> None:
        self._inner = inner
        self._runner = CallRunner(interceptors, max_concurrent_calls)
        self._servicer = _Servicer(self._runner, stream_age)
        multiplex_pb2_grpc.add_MultiplexServiceServicer_to_server(self._servicer, inner)

    def add_generic_rpc_handlers(self, generic_rpc_handlers: Iterable[grpc.GenericRpcHandler]) -> None:
        handlers = tuple(generic_rpc_handlers)
        self._inner.add_generic_rpc_handlers(handlers)
        self._runner.add_generic_rpc_handlers(handlers)

    def add_registered_method_handlers(
        self, service_name: str, method_handlers: Mapping[str, grpc.RpcMethodHandler[Any, Any]]
    ) -> None:
        self._inner.add_registered_method_handlers(service_name, method_handlers)
        self._runner.add_registered_method_handlers(service_name, method_handlers)

    def add_insecure_port(self, address: str) -> int:
        return self._inner.add_insecure_port(address)

    def add_secure_port(self, address: str, server_credentials: grpc.ServerCredentials) -> int:
        return self._inner.add_secure_port(address, server_credentials)

    async def start(self) -> None:
        """Take calls."""
        self._runner.keep_context()
        await self._inner.start()

    async def stop(self, grace: float | None) -> None:
        """Refuse new connections, let the calls in progress end within `grace` seconds, then cancel them."""
        self._servicer.drain()
        await self._inner.stop(grace)
        await self._runner.stop(0)

    async def wait_for_termination(self, timeout: float | None = None) -> bool:  # noqa: ASYNC109 - signature of grpc
        """Wait for `stop`; True if the time ran out first."""
        return await self._inner.wait_for_termination(timeout)
