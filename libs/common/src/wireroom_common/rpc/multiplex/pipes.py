"""The responses of a call as a pipe whose ends are in different processes: a writer that needs credit, a reader that gives it."""

from __future__ import annotations

from collections.abc import Callable

from wireroom_common.rpc.exchange import MAX_MESSAGE_BYTES, MessageTooLargeError, Pipe
from wireroom_common.rpc.multiplex.outbox import Outbox
from wireroom_common.rpc.multiplex.wire import ENVELOPE_COST, PART_BYTES, WINDOW_BYTES
from wireroom_protos.common.v1 import multiplex_pb2

# Whatever a client says it can take.
_MAX_CREDIT = 16 * 1024 * 1024
# A server may go over its credit by the envelope that used it up.
_MOST_UNCREDITED = 2 * WINDOW_BYTES


class OutgoingPipe(Pipe):
    """The writer's end of the responses of a call. `put` waits for the client's credit, and while the stream is behind."""

    def __init__(self, outbox: Outbox[multiplex_pb2.ConnectResponse], call: int, credit: int) -> None:
        super().__init__()
        self._outbox = outbox
        self._call = call
        self._credit = 0
        self.grant(credit)

    def grant(self, credit: int) -> None:
        """The client can take so many more bytes."""
        self._credit = min(self._credit + credit, _MAX_CREDIT)
        self._writable.set()

    async def put(self, message: bytes) -> bool:
        if len(message) > MAX_MESSAGE_BYTES:
            raise MessageTooLargeError(f"Sent message larger than max ({len(message)} vs. {MAX_MESSAGE_BYTES})")
        start = 0
        while await self._may_send():
            end = start + PART_BYTES
            if end >= len(message):
                data = message[start:] if start else message
                self._spend(len(data)).envelopes.add(call=self._call, data=data)
                return True
            self._spend(PART_BYTES).envelopes.add(call=self._call, part=message[start:end])
            start = end
        return False

    async def _may_send(self) -> bool:
        while not self._closed:
            if self._credit <= 0:
                self._writable.clear()
                await self._writable.wait()
            elif not self._outbox.has_room:
                await self._outbox.room()
            else:
                return True
        return False

    def _spend(self, size: int) -> multiplex_pb2.ConnectResponse:
        self._credit -= size + ENVELOPE_COST
        return self._outbox.batch(size + ENVELOPE_COST)


class IncomingPipe(Pipe):
    """The reader's end of the responses of a call. Gives credit as they are read."""

    def __init__(self) -> None:
        super().__init__()
        self.grant: Callable[[int], None] | None = None
        self._parts: list[bytes] = []
        self._part_bytes = 0
        # What arrived since the last credit.
        self._uncredited = 0

    def add_part(self, data: bytes) -> bool:
        """A piece of a message; False if the message is larger than any may be, or came without credit."""
        self._uncredited += len(data) + ENVELOPE_COST
        self._parts.append(data)
        self._part_bytes += len(data)
        if self._uncredited > _MOST_UNCREDITED:
            return False
        self._give_credit()
        return self._part_bytes <= MAX_MESSAGE_BYTES

    def add_end(self, data: bytes) -> bool:
        """A message, or its last piece; False if the message is larger than any may be, or came without credit."""
        self._uncredited += len(data) + ENVELOPE_COST
        if self._parts:
            self._parts.append(data)
            data = b"".join(self._parts)
            self._parts.clear()
            self._part_bytes = 0
        if len(data) > MAX_MESSAGE_BYTES or self._uncredited > _MOST_UNCREDITED:
            return False
        self.offer(data)
        return True

    async def get(self) -> bytes | None:
        message = await super().get()
        self._give_credit()
        return message

    def _give_credit(self) -> None:
        # What waits to be read is not paid back; nor are the pieces of the message behind it.
        waiting = self._bytes + ENVELOPE_COST * len(self._messages) + (self._part_bytes if self._messages else 0)
        owed = self._uncredited - waiting
        if owed >= WINDOW_BYTES // 2 and self.grant is not None:
            self.grant(owed)
            self._uncredited -= owed
