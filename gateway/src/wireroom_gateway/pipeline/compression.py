"""gzip for answers above 1 KiB, never for event streams."""

from __future__ import annotations

from starlette.middleware.gzip import DEFAULT_EXCLUDED_CONTENT_TYPES, GZipMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

MINIMUM_BYTES = 1025


class Compression:
    """Level 1: 3 KB cost about 10 µs. Event streams are listed here too: this must not depend on a library's default."""

    def __init__(self, app: ASGIApp) -> None:
        self._inner = GZipMiddleware(
            app,
            minimum_size=MINIMUM_BYTES,
            compresslevel=1,
            exclude_content_types=(*DEFAULT_EXCLUDED_CONTENT_TYPES, "text/event-stream"),
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._inner(scope, receive, send)
