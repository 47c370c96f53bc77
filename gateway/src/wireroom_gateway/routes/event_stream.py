"""Server-sent events on their way out: what is ready goes in one write, silence is filled with comments."""

from __future__ import annotations

import asyncio

_MAX_WAITING_BYTES = 256 * 1024
KEEPALIVE = b": keepalive\n\n"
DONE = b"data: [DONE]\n\n"


def frame(data: bytes) -> bytes:
    """One event. A line break inside JSON is only layout; in an event it would end the line."""
    if b"\n" in data or b"\r" in data:
        data = data.replace(b"\r", b" ").replace(b"\n", b" ")
    return b"data: " + data + b"\n\n"


class FrameQueue:
    """Frames between the one who reads the answer and the one who writes to the client; bounded by bytes."""

    def __init__(self) -> None:
        self._frames: list[bytes] = []
        self._bytes = 0
        self._wake = asyncio.Event()
        self._space = asyncio.Event()
        self._space.set()
        self.finished = False
        self.client_gone = False
        self.error: Exception | None = None

    async def put(self, item: bytes) -> None:
        """Add a frame; waits while the client is too slow."""
        self._frames.append(item)
        self._bytes += len(item)
        self._wake.set()
        if self._bytes >= _MAX_WAITING_BYTES:
            self._space.clear()
            await self._space.wait()

    def finish(self, error: Exception | None = None) -> None:
        """No more frames come."""
        self.finished = True
        self.error = error
        self._wake.set()

    def leave(self) -> None:
        """The client is gone."""
        self.client_gone = True
        self._wake.set()

    def wake(self) -> None:
        """Something else worth looking at has happened."""
        self._wake.set()

    async def wait(self, seconds: float) -> bool:
        """Until there is something to do; False if nothing came within `seconds`."""
        try:
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        except TimeoutError:
            return False
        self._wake.clear()
        return True

    def drain(self) -> bytes:
        """All waiting frames in one piece."""
        joined = b"".join(self._frames)
        self._frames.clear()
        self._bytes = 0
        self._space.set()
        return joined
