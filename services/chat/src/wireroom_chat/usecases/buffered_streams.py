"""The buffer of streams as those who wait for it ask it: who cannot be answered is told why."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TypeVar
from uuid import UUID

from wireroom_chat.domain.frames import Frame
from wireroom_chat.metrics import StreamMetrics
from wireroom_chat.ports.streams import BufferedStream, ClaimedStream, StreamBuffer, StreamBufferError, StreamRecord, StreamState
from wireroom_common.errors import ErrorKind, WireroomError, not_found

T = TypeVar("T")


class BufferedStreams:
    """Every call may raise UNAVAILABLE `stream_buffer_unavailable`. Without a buffer there are no streams in it."""

    def __init__(self, buffer: StreamBuffer | None, metrics: StreamMetrics) -> None:
        self._buffer = buffer
        self._metrics = metrics

    def handle(self, record: StreamRecord) -> BufferedStream | None:
        """For a new stream; None without a buffer. No I/O."""
        return self._buffer.handle(record) if self._buffer is not None else None

    async def state(self, key: tuple[UUID, str]) -> StreamState | None:
        """None for a stream that is not there (any more)."""
        return await self._asking(self._buffer.state(*key)) if self._buffer is not None else None

    async def read(self, key: tuple[UUID, str], after: int) -> list[Frame]:
        """Some frames after `after`, the next one first; none when there are none yet. CONFLICT `stream_trimmed` when that one is gone."""
        return _next(after, await self._asking(self._there().read(*key, after)))

    async def wait(self, key: tuple[UUID, str], after: int, seconds: float) -> list[Frame]:
        """As `read`, but waits for frames; none when none came."""
        return _next(after, await self._asking(self._there().wait(*key, after, seconds)))

    async def claim(self, key: tuple[UUID, str]) -> ClaimedStream | None:
        """Take a stream over from a replica that is gone; None when it is not orphaned or another replica was faster."""
        return await self._asking(self._there().claim(*key))

    async def ask_to_cancel(self, key: tuple[UUID, str]) -> None:
        """Tell the replica that runs the stream."""
        await self._asking(self._there().ask_to_cancel(*key))

    def _there(self) -> StreamBuffer:
        if self._buffer is None:
            raise not_found("stream")
        return self._buffer

    async def _asking(self, answer: Awaitable[T]) -> T:
        try:
            return await answer
        except StreamBufferError:
            self._metrics.buffer_failed()
            raise WireroomError(
                ErrorKind.UNAVAILABLE,
                "stream_buffer_unavailable",
                "The buffer of streams cannot be reached. Try again.",
                retry_after=1.0,
            ) from None


def trimmed() -> WireroomError:
    """Frames are asked for that nobody has any more."""
    return WireroomError(
        ErrorKind.CONFLICT,
        "stream_trimmed",
        "What follows is not kept any more. The whole answer is in its session, if it has one.",
    )


def _next(after: int, frames: list[Frame]) -> list[Frame]:
    if frames and frames[0].seq != after + 1:
        raise trimmed()
    return frames
