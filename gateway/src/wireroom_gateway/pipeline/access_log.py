"""One canonical line per request."""

from __future__ import annotations

import re

from starlette.types import ASGIApp, Receive, Scope, Send

from wireroom_common.clock import Clock
from wireroom_common.logging import get_logger
from wireroom_gateway.request_state import method_label, request_state

_QUIET = frozenset({"/health", "/health/live", "/health/ready", "/ready", "/metrics"})
_MAX_PATH = 200
_SERVER_ERROR = 500
# Longer than a UUID: ids are shown, tokens and keys are not.
_LONG = re.compile(r"[^/]{37,}")
_CREDENTIAL = re.compile(r"\b(?:wr_|eyJ)[^/]*")
_log = get_logger(__name__)


def shown_path(path: str) -> str:
    """A path as it may stand in a log: somebody may have put a credential where an id belongs."""
    if len(path) > _MAX_PATH:
        path = path[:_MAX_PATH]
    hidden = _CREDENTIAL.sub("(hidden)", _LONG.sub("(hidden)", path))
    # Control characters would forge lines on a terminal.
    return ascii(hidden)[1:-1][:_MAX_PATH]


class AccessLog:
    """Says who asked for what and what came of it. Never headers, query values or bodies."""

    def __init__(self, app: ASGIApp, *, clock: Clock) -> None:
        self._app = app
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        start = self._clock.monotonic()
        state = request_state(scope)
        try:
            await self._app(scope, receive, send)
        finally:
            template, principal = state.template, state.principal
            write = _log.error if state.status >= _SERVER_ERROR else _log.debug if template in _QUIET else _log.info
            write(
                "http_request",
                method=method_label(scope),
                route=template,
                # A template without parameters is a path itself, and hides nothing.
                path=template if scope["path"] == template else shown_path(scope["path"]),
                status=state.status,
                ms=round((self._clock.monotonic() - start) * 1000, 2),
                bytes=state.response_bytes,
                client=state.client_ip,
                principal=principal.kind.value,
                subject=principal.subject,
                tenant=principal.tenant_text,
                code=state.error_code,
            )
