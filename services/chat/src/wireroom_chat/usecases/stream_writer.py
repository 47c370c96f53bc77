"""Brings the frames of all running streams to the buffer, together, every few milliseconds."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

import structlog

from wireroom_chat.domain.frames import Frame
from wireroom_chat.metrics import StreamMetrics
from wireroom_chat.ports.streams import BufferedStream, StreamBuffer, StreamBufferError, Written
from wireroom_chat.usecases.live_stream import LiveStream

_PAUSE_AFTER_FAILURE = 0.5
# Ended streams that wait for the buffer to come back; beyond these memory is not kept for those who may come back.
_MAX_ENDED = 1_000
_MAX_LOST = 10_000

log = structlog.get_logger()


class StreamWriter:
    """`done` is called with each stream that has ended and needs no memory any more."""

    def __init__(
        self, buffer: StreamBuffer | None, metrics: StreamMetrics, *, interval: float, done: Callable[[LiveStream], None]
    ) -> None:
        self._buffer = buffer
        self._metrics = metrics
        self._interval = interval
        self._done = done
        self._dirty: list[LiveStream] = []
        self._lost: deque[BufferedStream] = deque(maxlen=_MAX_LOST)
        self._wake = asyncio.Event()
        self._flushing = asyncio.Lock()

    def changed(self, live: LiveStream) -> None:
        """The stream has frames that are not buffered."""
        self._dirty.append(live)
        self._wake.set()

    async def run(self) -> None:
        """For ever."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            await asyncio.sleep(self._interval if await self.flush() else _PAUSE_AFTER_FAILURE)

    async def flush(self) -> bool:
        """Write what there is; False when the buffer could not be reached: then it is tried again later."""
        async with self._flushing:
            streams, self._dirty = self._dirty, []
            written = self._waiting(streams)
            if self._buffer is None:
                return True
            try:
                if self._lost:
                    await self._buffer.forget(self._lost)
                    self._lost.clear()
                batches = [(handle, frames) for _, handle, frames, _ in written]
                verdicts = await self._buffer.append(batches) if batches else []
            except StreamBufferError:
                self._failed([live for live, *_ in written])
                return False
            for (live, _, frames, total), verdict in zip(written, verdicts, strict=True):
                if verdict is Written.YES:
                    live.buffered(frames[-1].seq, total)
                else:
                    self._refused(live, verdict)
                if live.ended and (live.handle is None or live.buffered_seq >= live.last_seq):
                    self._done(live)
            return True

    def _waiting(self, streams: list[LiveStream]) -> list[tuple[LiveStream, BufferedStream, list[Frame], int]]:
        """What is to be written of them, with the bytes that they have up to there."""
        waiting = []
        for live in streams:
            live.dirty = False
            if live.lost is not None:
                self._metrics.unbuffered()
                self._lost.append(live.lost)
                live.lost = None
            frames = live.unbuffered() if live.handle is not None else []
            if live.handle is not None and frames:
                waiting.append((live, live.handle, frames, live.total))
            elif live.ended:
                self._done(live)
        return waiting

    def _refused(self, live: LiveStream, verdict: Written) -> None:
        if verdict is Written.MOVED:
            log.warning("chat.stream.moved", stream_id=live.stream_id)
            self._metrics.moved()
            live.move()
        else:
            live.unbuffer()

    def _failed(self, streams: list[LiveStream]) -> None:
        self._metrics.buffer_failed()
        ended = 0
        for live in streams:
            live.missed()
            ended += live.ended
            if live.ended and ended > _MAX_ENDED:
                live.unbuffer()
            if live.handle is not None and not live.dirty:
                live.dirty = True
                self.changed(live)
            elif live.handle is None and live.ended:
                self._done(live)
