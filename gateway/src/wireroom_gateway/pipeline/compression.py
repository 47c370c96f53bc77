"""gzip for answers above 1 KiB, never for event streams."""

from __future__ import annotations

from starlette.middleware.gzip import DEFAULT_EXCLUDED_CONTENT_TYPES, GZipResponder, IdentityResponder
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MINIMUM_BYTES = 1025
# Event streams are listed here too: this must not depend on a library's default.
_EXCLUDED = (*DEFAULT_EXCLUDED_CONTENT_TYPES, "text/event-stream")


class Compression:
    """Level 1: 3 KB cost about 10 µs. Answers that say they are short pass by; the library's responders see to the others."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        responder: IdentityResponder | None = None

        async def send_compressed(message: Message) -> None:
            nonlocal responder
            if message["type"] == "http.response.start" and not _is_short(message):
                responder = self._responder(scope, send)
            if responder is None:
                await send(message)
            else:
                await responder.send_with_compression(message)

        await self._app(scope, receive, send_compressed)

    def _responder(self, scope: Scope, send: Send) -> IdentityResponder:
        responder = (
            GZipResponder(self._app, MINIMUM_BYTES, compresslevel=1, exclude_content_types=_EXCLUDED)
            if any(name == b"accept-encoding" and b"gzip" in value for name, value in scope["headers"])
            else IdentityResponder(self._app, MINIMUM_BYTES, exclude_content_types=_EXCLUDED)
        )
        responder.send = send
        return responder


def _is_short(message: Message) -> bool:
    for name, value in message.get("headers", ()):
        if name == b"content-length":
            return len(value) <= len(str(MINIMUM_BYTES)) and value.isdigit() and int(value) < MINIMUM_BYTES
    return False
