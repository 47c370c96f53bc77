"""Reading a whole request body. Its size was limited by the pipeline before."""

from __future__ import annotations

from starlette.requests import ClientDisconnect
from starlette.types import Receive


async def read_body(receive: Receive) -> bytes:
    """All of it; ClientDisconnect if the client went away before its end."""
    parts: list[bytes] = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(parts)
