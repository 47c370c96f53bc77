"""The client's end of one stream, on a connection of its own."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

import grpc
import grpc.aio
import structlog

from wireroom_common.error_text import describe_error
from wireroom_common.principal import Principal, PrincipalKind
from wireroom_common.rpc.client import grpc_channel
from wireroom_common.rpc.exchange import CallStatus, Exchange, Metadata
from wireroom_common.rpc.multiplex.outbox import Outbox
from wireroom_common.rpc.multiplex.pipes import IncomingPipe
from wireroom_common.rpc.multiplex.wire import (
    ENVELOPE_COST,
    WINDOW_BYTES,
    BadMetadataError,
    add_metadata,
    read_end,
    read_metadata,
)
from wireroom_common.rpc.signing import PRINCIPAL_KEY, PrincipalSigner
from wireroom_protos.common.v1 import multiplex_pb2, multiplex_pb2_grpc

_CONNECT_SECONDS = 5.0
# What waits for one peer before calls go to it by ordinary gRPC.
_OUTBOX_BYTES = 4 * 1024 * 1024
# What metadata and numbers add to a request, about.
_OPEN_COST = 512
_OPENER = Principal(PrincipalKind.SERVICE)
_LOST = CallStatus(grpc.StatusCode.UNAVAILABLE, "The connection was lost.")

_log = structlog.get_logger(__name__)


class LinkFailedError(Exception):
    """There is no connection."""


class UnreadableBatchError(Exception):
    """The peer sent what is no batch."""


class LinkUnsupportedError(Exception):
    """The peer serves ordinary calls only."""


class SentExchange(Exchange):
    """A call that leaves in a stream; `ended` is called when it is over."""

    def __init__(self, method: str, metadata: Metadata, deadline: float | None, ended: Callable[[SentExchange], None]) -> None:
        self.incoming = IncomingPipe()
        super().__init__(method, metadata, deadline, responses=self.incoming)
        self.link: Link | None = None
        self.number = 0
        self._ended = ended

    def finish(self, status: CallStatus) -> bool:
        if not super().finish(status):
            return False
        if self.link is not None:
            self.link.forget(self.number)
        self._ended(self)
        return True


class Link:
    """Open with `open`; then calls can be started until `leaving` is set. It ends by itself when its last call has ended."""

    def __init__(self, address: str, signer: PrincipalSigner | None = None) -> None:
        self._signer = signer
        self._channel = grpc_channel(address, own_connection=True)
        self._stream: Any = None
        self._outbox = Outbox(multiplex_pb2.ConnectRequest, capacity=_OUTBOX_BYTES)
        self._calls: dict[int, SentExchange] = {}
        self._last_number = 0
        self._running: asyncio.Task[None] | None = None
        # Set when the server asked for it, when the connection is lost, and by `retire`.
        self.leaving = asyncio.Event()

    @property
    def has_room(self) -> bool:
        """Whether the peer keeps up with what is sent."""
        return self._outbox.has_room

    async def open(self) -> asyncio.Task[None]:
        """Connect; the task ends with the stream. LinkUnsupportedError if the peer does not know it, LinkFailedError if there is none."""
        # So that the peer knows the stream for one of its installation's before any call is in it.
        metadata = ((PRINCIPAL_KEY, self._signer.sign(_OPENER)),) if self._signer is not None else None
        self._stream = multiplex_pb2_grpc.MultiplexServiceStub(self._channel).Connect(metadata=metadata)
        try:
            async with asyncio.timeout(_CONNECT_SECONDS):
                first = await self._stream.read()
        except grpc.aio.AioRpcError as error:
            await self._channel.close()
            if error.code() is grpc.StatusCode.UNIMPLEMENTED:
                raise LinkUnsupportedError from None
            raise LinkFailedError from None
        except (TimeoutError, grpc.aio.UsageError, grpc.aio.InternalError):
            await self._channel.close()
            raise LinkFailedError from None
        except BaseException:
            await self._channel.close()
            raise
        # What cannot be parsed comes as None.
        if not isinstance(first, multiplex_pb2.ConnectResponse) or not any(entry.HasField("hello") for entry in first.envelopes):
            await self._channel.close()
            raise LinkFailedError
        self._running = asyncio.create_task(self._run())
        return self._running

    def start(self, exchange: SentExchange, request: bytes) -> None:
        """Begin a call."""
        self._last_number += 1
        number = self._last_number
        exchange.link, exchange.number = self, number
        exchange.incoming.grant = lambda credit: self._grant(number, credit)
        self._calls[number] = exchange
        size = len(request) + _OPEN_COST
        opened = self._outbox.batch(size).envelopes.add(call=number).open
        opened.method = exchange.method
        opened.request = request
        opened.credit = WINDOW_BYTES
        remaining = exchange.remaining()
        if remaining is not None:
            opened.timeout = remaining
        add_metadata(opened.metadata, exchange.metadata)

    def forget(self, number: int) -> None:
        """The call is over on this side; the server is told, unless it said so itself."""
        if self._calls.pop(number, None) is not None:
            self._outbox.batch(ENVELOPE_COST).envelopes.add(call=number, cancel=True)
            self._finish_if_idle()

    def retire(self) -> None:
        """Take no more calls and end with the last one."""
        self.leaving.set()
        self._finish_if_idle()

    async def close(self) -> None:
        """End now."""
        if self._running is not None:
            self._running.cancel()
            await asyncio.wait([self._running])

    def _grant(self, number: int, credit: int) -> None:
        if number in self._calls:
            self._outbox.batch(ENVELOPE_COST).envelopes.add(call=number, credit=credit)

    def _finish_if_idle(self) -> None:
        if self.leaving.is_set() and not self._calls:
            self._outbox.finish()

    async def _run(self) -> None:
        writing = asyncio.create_task(self._write())
        try:
            while (batch := await self._stream.read()) is not grpc.aio.EOF:
                for envelope in _envelopes(batch):
                    self._receive(envelope)
        except grpc.aio.AioRpcError:
            # Calls in progress learn it below.
            pass
        except Exception as error:  # noqa: BLE001 - a peer that sends nonsense is as good as gone; nobody else would see this
            _log.warning("rpc_stream_failed", error=describe_error(error))
        finally:
            self.leaving.set()
            lost, self._calls = self._calls, {}
            for exchange in lost.values():
                exchange.finish(_LOST)
            writing.cancel()
            self._stream.cancel()
            # Before its channel: a task that is still writing would be left behind.
            await asyncio.gather(writing, return_exceptions=True)
            await self._channel.close()

    async def _write(self) -> None:
        # A broken stream is the reader's to report.
        with contextlib.suppress(grpc.aio.AioRpcError, grpc.aio.UsageError, asyncio.InvalidStateError):
            await self._outbox.write_all(self._stream.write)
            await self._stream.done_writing()

    def _receive(self, envelope: multiplex_pb2.ServerEnvelope) -> None:
        kind = envelope.WhichOneof("content")
        exchange = self._calls.get(envelope.call)
        if exchange is None:
            if kind == "drain":
                self.retire()
            return
        if kind == "data":
            exchange.send_initial()
            fits = exchange.incoming.add_end(envelope.data)
        elif kind == "end":
            # First, so that the server is not told what it just said.
            del self._calls[envelope.call]
            exchange.finish(read_end(envelope.end))
            self._finish_if_idle()
            return
        elif kind == "part":
            exchange.send_initial()
            fits = exchange.incoming.add_part(envelope.part)
        elif kind == "initial":
            try:
                exchange.send_initial(read_metadata(envelope.initial.metadata))
            except BadMetadataError as error:
                exchange.give_up(CallStatus(grpc.StatusCode.INTERNAL, str(error)))
            return
        else:
            return
        if not fits:
            exchange.give_up(
                CallStatus(grpc.StatusCode.RESOURCE_EXHAUSTED, "Received message larger than max, or without credit.")
            )


def _envelopes(batch: Any) -> Any:
    # What cannot be parsed comes as None.
    if batch is None:
        raise UnreadableBatchError
    return batch.envelopes
