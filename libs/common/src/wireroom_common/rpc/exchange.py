"""One call between two ends that need not share a process: two bounded pipes of serialised messages, and a status."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio

# Room for the largest body the gateway lets through (20 MB) and what is wrapped around it.
MAX_MESSAGE_BYTES = 24 * 1024 * 1024
METADATA_BYTES = 32 * 1024

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

    def caller_known(self) -> None:
        """Told by the server when the call is signed by one of the installation's."""

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


def encode(serialize: Serializer | None, message: Any) -> bytes:
    """The message as bytes; without a serializer it is bytes already."""
    return bytes(message) if serialize is None else serialize(message)


def checked_metadata(metadata: Any) -> Metadata:
    """Metadata as a tuple; ValueError for what gRPC would refuse to send."""
    entries = tuple((key, value) for key, value in metadata or ())
    for key, value in entries:
        good = (
            isinstance(value, bytes)
            if key.endswith("-bin")
            else isinstance(value, str) and value.isascii() and value.isprintable()
        )
        if not good or key != key.lower():
            raise ValueError(
                f"metadata was invalid: {key!r} (lower-case keys; bytes under keys that end in -bin, else printable ASCII)"
            )
    return entries
