"""Cross-origin requests from an exact list of origins."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

_EXPOSED = ("x-request-id", "x-answer-mode", "ratelimit", "ratelimit-policy", "retry-after", "location")


class Cors:
    """Without origins the stage is absent. Credentials travel in the Authorization header, never as cookies."""

    def __init__(self, app: ASGIApp, *, origins: Sequence[str] = ()) -> None:
        for origin in origins:
            if origin in ("*", "null") or "://" not in origin:
                raise ValueError(f"cors_origins: '{origin}' is not an origin such as https://app.example.com")
        self._inner: ASGIApp = app
        if origins:
            self._inner = CORSMiddleware(
                app,
                allow_origins=tuple(origins),
                allow_methods=("GET", "POST", "PUT", "PATCH", "DELETE"),
                allow_headers=("authorization", "content-type", "x-request-id", "idempotency-key"),
                expose_headers=_EXPOSED,
                max_age=600,
            )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._inner(scope, receive, send)
