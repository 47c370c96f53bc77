"""Body sizes, enforced before and while a body is read."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from wireroom_gateway.access import Body
from wireroom_gateway.problems import HttpProblemError, http_problem
from wireroom_gateway.request_state import request_state

# Boundaries and part headers around an uploaded file.
MULTIPART_OVERHEAD = 64 * 1024


class BodyLimit:
    """A 413 problem as soon as more was announced or has arrived than the route takes; 415 for compressed bodies."""

    def __init__(self, app: ASGIApp, *, limits: Mapping[Body, int]) -> None:
        self._app = app
        self._limits = dict(limits)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        route = request_state(scope).route
        kind = route.access.body if route else Body.JSON
        limit = self._limits[kind]
        bodiless = scope["method"] in {"GET", "HEAD", "OPTIONS"}
        for name, value in scope["headers"]:
            if not bodiless and name == b"content-encoding" and value.strip().lower() not in (b"", b"identity"):
                # What a compressed body expands to would have to be limited too; nobody needs it.
                raise http_problem(
                    415,
                    "Send the body without Content-Encoding.",
                    code="content_encoding_unsupported",
                    headers={"accept-encoding": "identity"},
                )
            if name == b"content-length" and value.isdigit() and int(value) > limit:
                raise _too_large(kind, limit)
        received = 0

        async def receive_limited() -> Message:
            nonlocal received
            message = await receive()
            if message["type"] == "http.request":
                received += len(message.get("body", b""))
                if received > limit:
                    raise _too_large(kind, limit)
            return message

        await self._app(scope, receive_limited, send)


def _too_large(kind: Body, limit: int) -> HttpProblemError:
    code = "document_too_large" if kind is Body.UPLOAD else "body_too_large"
    return http_problem(413, f"The request body is larger than the {limit} bytes taken here.", code=code)
