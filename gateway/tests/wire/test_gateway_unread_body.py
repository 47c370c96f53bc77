"""The bounds of what is discarded, where a socket would take minutes to show them."""

from __future__ import annotations

import asyncio
from typing import Any

from wireroom_gateway.pipeline.unread_body import UnreadBody


async def refuse(_scope: Any, _receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 413, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"no"})


def scope(**headers: str) -> dict[str, Any]:
    return {"type": "http", "headers": [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]}


class Client:
    """Sends `parts` pieces of a megabyte, then stays silent."""

    def __init__(self, parts: int) -> None:
        self.parts = parts
        self.taken = 0
        self.sent: list[Any] = []

    async def receive(self) -> Any:
        if self.taken == self.parts:
            await asyncio.Event().wait()
        self.taken += 1
        return {"type": "http.request", "body": bytes(1_000_000), "more_body": True}

    async def send(self, message: Any) -> None:
        self.sent.append(message)


async def test_no_more_than_the_bound_is_discarded() -> None:
    client = Client(parts=1_000)
    await UnreadBody(refuse, max_bytes=5_000_000)(scope(transfer_encoding="chunked"), client.receive, client.send)
    assert client.taken == 5
    assert [message.get("more_body", False) for message in client.sent[1:]] == [True, False]
    assert (b"connection", b"close") in client.sent[0]["headers"]


async def test_a_silent_client_is_not_waited_for_longer_than_the_bound() -> None:
    client = Client(parts=1)
    async with asyncio.timeout(10):
        await UnreadBody(refuse, max_seconds=0.05)(scope(content_length="900000000"), client.receive, client.send)
    assert client.taken == 1
    assert client.sent[-1] == {"type": "http.response.body", "body": b""}


async def test_requests_without_body_pass_untouched() -> None:
    client = Client(parts=0)
    await UnreadBody(refuse)(scope(), client.receive, client.send)
    assert client.sent[0]["headers"] == [(b"content-length", b"2")]
    assert len(client.sent) == 2
