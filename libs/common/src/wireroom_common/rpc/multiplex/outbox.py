"""What waits to be written to a stream: the envelopes of one turn of the event loop leave together."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from wireroom_common.rpc.multiplex.wire import ENVELOPE_COST
from wireroom_protos.common.v1.multiplex_pb2 import ConnectRequest, ConnectResponse

Batch = TypeVar("Batch", ConnectRequest, ConnectResponse)

_BATCH_BYTES = 256 * 1024
# No envelope is counted as less than its cost.
MAX_ENVELOPES = _BATCH_BYTES // ENVELOPE_COST


class Outbox(Generic[Batch]):
    """Batches in the order of their envelopes. Whoever adds much first waits for `room`."""

    def __init__(self, make: Callable[[], Batch], *, capacity: int) -> None:
        self._make: Callable[[], Batch] = make
        self._capacity = capacity
        self._batches: deque[Batch] = deque()
        self._sizes: deque[int] = deque()
        self._bytes = 0
        self._finished = False
        self._filled = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()

    @property
    def has_room(self) -> bool:
        """Whether less waits than the outbox should hold."""
        return self._bytes < self._capacity

    async def room(self) -> None:
        """Return once there is room."""
        await self._room.wait()

    def batch(self, size: int) -> Batch:
        """The batch to which the caller at once adds an envelope of about `size` bytes."""
        if not self._batches or self._sizes[-1] + size > _BATCH_BYTES:
            self._batches.append(self._make())
            self._sizes.append(0)
            self._filled.set()
        self._sizes[-1] += size
        self._bytes += size
        if self._bytes >= self._capacity:
            self._room.clear()
        return self._batches[-1]

    def finish(self) -> None:
        """Nothing more will be added: `write_all` returns once all is written."""
        self._finished = True
        self._filled.set()

    async def write_all(self, write: Callable[[Batch], Awaitable[None]]) -> None:
        """Write batch after batch as they come."""
        while True:
            while not self._batches:
                if self._finished:
                    return
                self._filled.clear()
                await self._filled.wait()
            batch, size = self._batches.popleft(), self._sizes.popleft()
            await write(batch)
            self._bytes -= size
            if self._bytes < self._capacity:
                self._room.set()
