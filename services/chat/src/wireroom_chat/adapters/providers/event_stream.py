"""Server-sent events as providers send them."""

from __future__ import annotations

from collections.abc import AsyncIterator

import aiohttp

_MAX_EVENT_BYTES = 1024 * 1024
_MAX_EVENT_LINES = 1000


async def events(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """The `data` of each event; comments and other fields are skipped, several data lines are joined."""
    buffer = b""
    data: list[bytes] = []
    async for received in response.content.iter_any():
        buffer += received
        lines = buffer.split(b"\n")
        buffer = lines.pop()
        if len(buffer) > _MAX_EVENT_BYTES:
            raise aiohttp.ClientPayloadError
        for line in lines:
            stripped = line.rstrip(b"\r")
            if not stripped:
                if data:
                    yield data[0] if len(data) == 1 else b"\n".join(data)
                    data = []
            elif stripped.startswith(b"data:"):
                data.append(stripped[5:].strip())
                if len(data) > _MAX_EVENT_LINES:
                    raise aiohttp.ClientPayloadError
    if buffer.startswith(b"data:"):
        data.append(buffer[5:].strip())
    if data:
        yield b"\n".join(data)
