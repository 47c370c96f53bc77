"""Server-sent events as providers send them."""

from __future__ import annotations

from collections.abc import AsyncIterator

import aiohttp

_MAX_EVENT_BYTES = 1024 * 1024
_MAX_EVENT_LINES = 1000


async def event_batches(response: aiohttp.ClientResponse) -> AsyncIterator[list[bytes]]:
    """The `data` of each event, those together that arrived together; comments and other fields are skipped, data lines are joined."""
    buffer = b""
    data: list[bytes] = []
    async for received in response.content.iter_any():
        buffer += received
        lines = buffer.split(b"\n")
        buffer = lines.pop()
        if ready := _complete(lines, data):
            yield ready
        if len(buffer) > _MAX_EVENT_BYTES or len(data) > _MAX_EVENT_LINES:
            raise aiohttp.ClientPayloadError
    if buffer.startswith(b"data:"):
        data.append(buffer[5:].strip())
    if data:
        yield [b"\n".join(data)]


def _complete(lines: list[bytes], data: list[bytes]) -> list[bytes]:
    """The events that end in these lines; `data` holds the lines of the one that has not ended, before and after."""
    ready: list[bytes] = []
    for line in lines:
        stripped = line.rstrip(b"\r")
        if not stripped:
            if data:
                ready.append(data[0] if len(data) == 1 else b"\n".join(data))
                data.clear()
        elif stripped.startswith(b"data:"):
            data.append(stripped[5:].strip())
            if len(data) > _MAX_EVENT_LINES:
                break
    return ready
