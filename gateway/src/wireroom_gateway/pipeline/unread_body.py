"""Outermost stage: lets clients see an answer that was given before they had sent their whole request.

Many clients write the whole body before they read. When a server closes a connection with unread data in it, TCP resets the
connection, and such a client sees the reset instead of the answer.
"""

from __future__ import annotations

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send

# So much, and no more, of the rest is read and thrown away.
LINGER_BYTES = 64 * 1024 * 1024
LINGER_SECONDS = 10.0
# A rest up to this size is thrown away by the server between two requests, if the client lets the connection stay.
_SMALL_REST = 64 * 1024


class UnreadBody:
    """When an answer begins before a large request body was read: says `connection: close`, sends the answer, discards the rest."""

    def __init__(self, app: ASGIApp, *, max_bytes: int = LINGER_BYTES, max_seconds: float = LINGER_SECONDS) -> None:
        self._app = app
        self._max_bytes = max_bytes
        self._max_seconds = max_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        unread = _announced(scope) if scope["type"] == "http" else 0
        if unread == 0:
            await self._app(scope, receive, send)
            return
        touched = lingering = held = False
        small = 0 if _closes(scope) else _SMALL_REST

        async def receive_counted() -> Message:
            nonlocal unread, touched
            touched = True
            message = await receive()
            if message["type"] == "http.request" and message.get("more_body", False):
                # Without an announced length nobody knows how much comes.
                unread = None if unread is None else max(1, unread - len(message.get("body", b"")))
            else:
                unread = 0
            return message

        async def send_first(message: Message) -> None:
            nonlocal lingering, held
            if message["type"] == "http.response.start" and (unread is None or unread > small):
                headers = [entry for entry in message.get("headers", ()) if entry[0] != b"connection"]
                message = {**message, "headers": [*headers, (b"connection", b"close")]}
                # Who was told the answer in place of "100 Continue" sends no body.
                lingering = touched or not _expects_continue(scope)
            elif message["type"] == "http.response.body" and lingering and not message.get("more_body", False):
                held = True
                message = {**message, "more_body": True}
            await send(message)

        await self._app(scope, receive_counted, send_first)
        if held:
            await self._discard(receive)
            await send({"type": "http.response.body", "body": b""})

    async def _discard(self, receive: Receive) -> None:
        rest = self._max_bytes
        try:
            async with asyncio.timeout(self._max_seconds):
                while rest > 0:
                    message = await receive()
                    if message["type"] != "http.request" or not message.get("more_body", False):
                        return
                    rest -= len(message.get("body", b""))
        except TimeoutError:
            return


def _announced(scope: Scope) -> int | None:
    """Bytes of body that follow the head; None: unknown."""
    length = 0
    for name, value in scope["headers"]:
        if name == b"transfer-encoding":
            return None
        if name == b"content-length" and value.isdigit():
            length = int(value)
    return length


def _closes(scope: Scope) -> bool:
    """Whether the client asked for the connection to end with the answer."""
    return scope.get("http_version") == "1.0" or any(
        name == b"connection" and b"close" in value.lower() for name, value in scope["headers"]
    )


def _expects_continue(scope: Scope) -> bool:
    return any(name == b"expect" and value.lower() == b"100-continue" for name, value in scope["headers"])
