"""One call inside a process: two bounded pipes of serialised messages, a status, and the client's handle."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Callable, Generator, Iterable
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio

# Room for the largest body the gateway lets through (20 MB) and what is wrapped around it.
MAX_MESSAGE_BYTES = 24 * 1024 * 1024

Metadata = tuple[tuple[str, str | bytes], ...]


@dataclass(frozen=True)
class CallStatus:
    """How a call ended."""

    code: grpc.StatusCode
    details: str = ""
    trailing_metadata: Metadata = ()


class MessageTooLargeError(Exception):
    """A message is larger than the channel carries."""


class Pipe:
    """One direction of a call. `put` waits while `max_messages` or `max_bytes` wait to be read; one message always fits."""

    def __init__(self, *, max_messages: int = 16, max_bytes: int = 64 * 1024) -> None:
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        self._messages: deque[bytes] = deque()
        self._bytes = 0
        self._closed = False
        self._readable = asyncio.Event()
        self._writable = asyncio.Event()

    @property
    def waiting_bytes(self) -> int:
        """Bytes written and not yet read."""
        return self._bytes

    async def put(self, message: bytes) -> bool:
        """Append a message once there is room; False if nobody will read it any more."""
        while not self._closed and self._messages and not self._has_room(len(message)):
            self._writable.clear()
            await self._writable.wait()
        return self.offer(message)

    def offer(self, message: bytes) -> bool:
        """Append a message, room or not; False if nobody will read it any more."""
        if len(message) > MAX_MESSAGE_BYTES:
            raise MessageTooLargeError(f"Sent message larger than max ({len(message)} vs. {MAX_MESSAGE_BYTES})")
        if self._closed:
            return False
        self._messages.append(message)
        self._bytes += len(message)
        self._readable.set()
        return True

    def _has_room(self, size: int) -> bool:
        return len(self._messages) < self._max_messages and self._bytes + size <= self._max_bytes

    async def get(self) -> bytes | None:
        """The next message, or None at the end."""
        while not self._messages:
            if self._closed:
                return None
            self._readable.clear()
            await self._readable.wait()
        message = self._messages.popleft()
        self._bytes -= len(message)
        self._writable.set()
        return message

    def close(self) -> None:
        """No more messages; those written can still be read."""
        self._closed = True
        self._readable.set()
        self._writable.set()

    def discard(self) -> None:
        """No more messages, and those written are dropped."""
        self._messages.clear()
        self._bytes = 0
        self.close()


@dataclass(eq=False)
class Exchange:
    """What both sides of a call share. The first `finish` decides how it ended."""

    method: str
    metadata: Metadata
    deadline: float | None
    requests: Pipe = field(default_factory=Pipe)
    responses: Pipe = field(default_factory=Pipe)
    initial_metadata: Metadata | None = None
    initial_sent: asyncio.Event = field(default_factory=asyncio.Event)
    status: CallStatus | None = None
    done: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None
    locally_cancelled: bool = False
    callbacks: list[Callable[[], object]] = field(default_factory=list)
    _timer: asyncio.TimerHandle | None = None

    def watch_deadline(self) -> None:
        """Arm the timer that ends the call at its deadline."""
        if self.deadline is not None:
            self._timer = asyncio.get_running_loop().call_at(self.deadline, self._expire)

    def _expire(self) -> None:
        self.give_up(CallStatus(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded"))

    def remaining(self) -> float | None:
        """Seconds until the deadline, never negative; None without one."""
        return None if self.deadline is None else max(0.0, self.deadline - asyncio.get_running_loop().time())

    def send_initial(self, metadata: Metadata = ()) -> None:
        """Make the initial metadata known to the client; later ones are ignored."""
        if self.initial_metadata is None:
            self.initial_metadata = metadata
            self.initial_sent.set()

    def finish(self, status: CallStatus) -> bool:
        """End by the server: what it wrote can still be read. False if the call had ended before."""
        if self.status is not None:
            return False
        self.status = status
        if self._timer is not None:
            self._timer.cancel()
        self.send_initial()
        self.requests.discard()
        self.responses.close()
        self.done.set()
        loop = asyncio.get_running_loop()
        for callback in self.callbacks:
            loop.call_soon(callback)
        self.callbacks.clear()
        return True

    def give_up(self, status: CallStatus) -> bool:
        """End by the client, the deadline or the server's end: nothing more is read, and the servicer is cancelled."""
        if not self.finish(status):
            return False
        self.responses.discard()
        if self.task is not None:
            self.task.cancel()
        return True

    def cancel(self) -> bool:
        """End by the client's wish."""
        if self.status is None:
            self.locally_cancelled = True
        return self.give_up(CallStatus(grpc.StatusCode.CANCELLED, "Locally cancelled by application!"))

    def final_status(self) -> CallStatus:
        """How it ended; only once `done` is set."""
        if self.status is None:
            raise grpc.aio.UsageError("The call has not ended.")
        return self.status


Serializer = Callable[[Any], bytes]
Deserializer = Callable[[bytes], Any]


class LocalCall:
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


def encode(serialize: Serializer | None, message: Any) -> bytes:
    """The message as bytes; without a serializer it is bytes already."""
    return bytes(message) if serialize is None else serialize(message)
