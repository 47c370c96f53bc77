"""The server's end: a gRPC server that offers its methods in streams of many calls as well."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from wireroom_common.rpc.admission import Door
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
from wireroom_protos.common.v1 import multiplex_pb2

_MAX_TIMEOUT = 30 * 24 * 3600.0
# What waits for one client before its servicers wait for it.
_OUTBOX_BYTES = 1024 * 1024
# A client that has not shown who it is: above what one sends at first.
_STRANGER_BATCH_BYTES = 2 * 1024 * 1024
_STRANGER_STEPS = 5
_LAST_WRITES_SECONDS = 1.0
_CLIENT_GONE = CallStatus(grpc.StatusCode.CANCELLED, "The client is gone.")

# Whether metadata are signed by one of the installation's.
Knows = Callable[[Iterable[tuple[str, str | bytes]] | None], bool]


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

    def caller_known(self) -> None:
        self._stream.caller_known()

    def finish(self, status: CallStatus) -> bool:
        if not super().finish(status):
            return False
        self._stream.end(self._call, status)
        return True


class _StreamRefusedError(Exception):
    """A client sends what none of ours would."""

    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        super().__init__(details)
        self.code = code
        self.details = details


class _Stream:
    """One client's stream and the calls in it."""

    def __init__(self, runner: CallRunner, context: Any, *, known: bool) -> None:
        self.outbox = Outbox(multiplex_pb2.ConnectResponse, capacity=_OUTBOX_BYTES)
        self._runner = runner
        self._context = context
        # As its connection's, so that servicers cannot tell.
        self._peer = context.peer()
        self._calls: dict[int, _ServedExchange] = {}
        # Set when the client has shown who it is.
        self.known = asyncio.Event()
        if known:
            self.known.set()

    def caller_known(self) -> None:
        """A call in the stream is signed by one of the installation's."""
        self.known.set()

    async def serve(self) -> None:
        """Until the client closes its side, or is gone. StreamRefusedError for what no client of ours sends."""
        self.outbox.batch(ENVELOPE_COST).envelopes.add().hello.SetInParent()
        writing = asyncio.get_running_loop().create_task(self.outbox.write_all(self._context.write))
        try:
            try:
                await self._read_all()
            finally:
                for exchange in list(self._calls.values()):
                    exchange.give_up(_CLIENT_GONE)
        except Exception:
            await self._last_writes(writing)
            raise
        else:
            await self._last_writes(writing)
        finally:
            writing.cancel()
            # How it failed is of no interest: the client is gone.
            await asyncio.gather(writing, return_exceptions=True)

    async def _last_writes(self, writing: asyncio.Task[None]) -> None:
        # While a write is under way the stream can be given no status.
        self.outbox.finish()
        await asyncio.wait((writing,), timeout=_LAST_WRITES_SECONDS)

    async def _read_all(self) -> None:
        while (raw := await self._context.read()) is not grpc.aio.EOF:
            if len(raw) > _STRANGER_BATCH_BYTES and not self.known.is_set():
                raise _StreamRefusedError(grpc.StatusCode.RESOURCE_EXHAUSTED, "Too much at once from an unsigned client.")
            try:
                batch = multiplex_pb2.ConnectRequest.FromString(raw)
            except DecodeError:
                raise _StreamRefusedError(grpc.StatusCode.INVALID_ARGUMENT, "What was sent cannot be read.") from None
            # Each may be answered at once, and only between batches is it asked whether the answers leave.
            if len(batch.envelopes) > MAX_ENVELOPES:
                raise _StreamRefusedError(grpc.StatusCode.RESOURCE_EXHAUSTED, "Too many envelopes at once.")
            for envelope in batch.envelopes:
                self._receive(envelope)
            # A client that does not read what it is answered gets no further calls.
            await self.outbox.room()

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


class _Servicer:
    """`Connect`: a transport like a connection, which needs no principal; every call in it does.

    A client that says by metadata who it is may stay. Another gets one of a few places, and has to send a signed call soon.
    """

    def __init__(self, runner: CallRunner, knows: Knows, stream_age: float, stranger_seconds: float) -> None:
        self._runner = runner
        self._knows = knows
        self._stream_age = stream_age
        self._stranger_seconds = stranger_seconds
        self._strangers = Door(limit=64, per_address=8)
        self._streams: set[_Stream] = set()

    def handlers(self) -> grpc.GenericRpcHandler:
        """Read as bytes: how large a batch may be before it is parsed depends on who sends it."""
        connect: Any = grpc.stream_stream_rpc_method_handler(
            self._connect, response_serializer=multiplex_pb2.ConnectResponse.SerializeToString
        )
        name = multiplex_pb2.DESCRIPTOR.services_by_name["MultiplexService"].full_name
        return grpc.method_handlers_generic_handler(name, {"Connect": connect})

    async def _connect(self, _requests: Any, context: Any) -> None:
        # Read and written through the context, at the same time.
        if self._knows(context.invocation_metadata()):
            await self._serve(_Stream(self._runner, context, known=True), context)
            return
        leave = self._strangers.enter(context.peer())
        if leave is None:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "Too many unsigned streams at once.")
            return
        stream = _Stream(self._runner, context, known=False)
        serving = asyncio.get_running_loop().create_task(self._serve(stream, context))
        introduced = asyncio.get_running_loop().create_task(stream.known.wait())
        try:
            # In steps: an event loop that was held up has not read what came in time, and gets the chance to.
            for _ in range(_STRANGER_STEPS):
                step = self._stranger_seconds / _STRANGER_STEPS
                done, _waiting = await asyncio.wait((serving, introduced), timeout=step, return_when=asyncio.FIRST_COMPLETED)
                if done:
                    break
            leave()
            if introduced.done() or serving.done():
                await serving
                return
        finally:
            leave()
            for task in (serving, introduced):
                task.cancel()
            await asyncio.gather(serving, introduced, return_exceptions=True)
        await context.abort(grpc.StatusCode.UNAUTHENTICATED, "No signed call came in time.")

    async def _serve(self, stream: _Stream, context: Any) -> None:
        self._streams.add(stream)
        # Spread, so that clients that came together do not come back together.
        timer = asyncio.get_running_loop().call_later(self._stream_age * random.uniform(0.9, 1.0), stream.drain)  # noqa: S311 - no secret
        try:
            await stream.serve()
        except _StreamRefusedError as refused:
            await context.abort(refused.code, refused.details)
        finally:
            timer.cancel()
            self._streams.discard(stream)

    def drain(self) -> None:
        """Ask all clients for their next calls to be elsewhere."""
        for stream in self._streams:
            stream.drain()


class MultiplexServer(grpc.aio.Server):
    """`inner`, with its methods offered in streams of many calls too. Both ways run the same interceptors.

    Clients are asked to begin a new stream after `stream_age` seconds. `knows` tells by the metadata of a stream whether its client is one
    of the installation's; if not, it must be shown within `stranger_seconds`.
    """

    def __init__(
        self,
        inner: grpc.aio.Server,
        *,
        interceptors: Sequence[grpc.aio.ServerInterceptor],
        knows: Knows,
        stream_age: float,
        stranger_seconds: float,
    ) -> None:
        self._inner = inner
        self._runner = CallRunner(interceptors)
        self._servicer = _Servicer(self._runner, knows, stream_age, stranger_seconds)
        inner.add_generic_rpc_handlers((self._servicer.handlers(),))

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
