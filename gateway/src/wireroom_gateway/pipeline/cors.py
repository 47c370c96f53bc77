"""Cross-origin requests from an exact list of origins."""

from __future__ import annotations

import re
from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from wireroom_gateway.problems import http_problem, render
from wireroom_gateway.request_state import HANDSHAKE_KEY

_EXPOSED = (
    "x-request-id",
    "x-answer-mode",
    "x-provider-path",
    "x-cache",
    "x-retrieval",
    "x-cost-micros",
    "x-budget-remaining-micros",
    "x-overhead-ms",
    "x-ratelimit-mode",
    "ratelimit",
    "ratelimit-policy",
    "retry-after",
    "location",
)
_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
# The last ones are what OpenAI's client for browsers tells of itself.
_STAINLESS = ("lang", "package-version", "os", "arch", "runtime", "runtime-version", "retry-count", "timeout", "helper-method")
_HEADERS = (
    "authorization",
    "content-type",
    "x-request-id",
    "idempotency-key",
    "x-citations-format",
    *(f"x-stainless-{name}" for name in _STAINLESS),
)
_ORIGIN = re.compile(r"(https?)://([a-z0-9.-]+|\[[0-9a-f:.]+\])(?::[0-9]{1,5})?")
_THIS_MACHINE = frozenset({"localhost", "127.0.0.1", "[::1]"})


def check_origins(origins: Sequence[str], *, plain_http: bool) -> None:
    """ValueError for what is no exact origin, and for plain HTTP from other machines unless `plain_http`."""
    for origin in origins:
        match = _ORIGIN.fullmatch(origin)
        if match is None:
            raise ValueError(f"cors_origins: '{origin}' is not an origin such as https://app.example.com")
        if match[1] == "http" and match[2] not in _THIS_MACHINE and not plain_http:
            raise ValueError(f"cors_origins: '{origin}' is not encrypted: whoever is on the way could call in its name")


class Cors:
    """Without origins there is nothing to do for requests. Credentials travel in the Authorization header, never as cookies.

    A browser asks nobody before it opens a WebSocket: from a page of another origin than those listed, and this one, it is refused.
    """

    def __init__(self, app: ASGIApp, *, origins: Sequence[str] = (), plain_http: bool = False) -> None:
        check_origins(origins, plain_http=plain_http)
        self._inner: ASGIApp = _Checked(app, origins) if origins else app
        self._origins = frozenset(origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if HANDSHAKE_KEY in scope and not self._may_open(scope):
            problem = http_problem(
                403, "A page of this origin may not open a WebSocket here. See cors_origins.", code="origin_refused"
            )
            await render(scope, problem)(scope, receive, send)
            return
        await self._inner(scope, receive, send)

    def _may_open(self, scope: Scope) -> bool:
        origins = [value for name, value in scope["headers"] if name == b"origin"]
        if not origins:
            # No browser.
            return True
        own = [b"%s://%s" % (scope["scheme"].encode(), value.lower()) for name, value in scope["headers"] if name == b"host"]
        return len(origins) == 1 and (origins[0].decode("latin-1") in self._origins or origins == own)


class _Checked(CORSMiddleware):
    """Refused preflights are problem documents like other refusals."""

    def __init__(self, app: ASGIApp, origins: Sequence[str]) -> None:
        super().__init__(
            app,
            allow_origins=tuple(origins),
            allow_methods=_METHODS,
            allow_headers=_HEADERS,
            expose_headers=_EXPOSED,
            max_age=600,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        if scope["method"] == "OPTIONS" and "origin" in headers and "access-control-request-method" in headers:
            answer = self.preflight_response(request_headers=headers)
            if answer.status_code >= 400:  # noqa: PLR2004 - HTTP's classes
                answer = _refusal(scope, answer)
            await answer(scope, receive, send)
            return
        await self.simple_response(scope, receive, send, request_headers=headers)


def _refusal(scope: Scope, answer: Response) -> Response:
    allowed = {name: value for name, value in answer.headers.items() if name.startswith("access-control-") or name == "vary"}
    return render(
        scope,
        http_problem(
            403, "A page of this origin may not make such a request here. See cors_origins.", code="cors_refused", headers=allowed
        ),
    )
