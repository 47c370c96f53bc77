"""Turns what the inner stages raise into answers. Nothing unforeseen tells anything about itself."""

from __future__ import annotations

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_common.logging import get_logger
from wireroom_gateway.problems import render
from wireroom_gateway.request_state import request_state

CLIENT_GONE = 499
_log = get_logger(__name__)


class Errors:
    """Renders exceptions that were raised before the answer began; after that only the connection can be cut."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = complete = False

        async def send_watched(message: Message) -> None:
            nonlocal started, complete
            if message["type"] == "http.response.start":
                started = True
            elif message["type"] == "http.response.body" and not message.get("more_body", False):
                complete = True
            await send(message)

        try:
            await self._app(scope, receive, send_watched)
        except ClientDisconnect:
            request_state(scope).status = CLIENT_GONE
        except Exception as error:
            expected = isinstance(error, HTTPException) or (
                isinstance(error, WireroomError) and error.kind is not ErrorKind.INTERNAL
            )
            if not expected:
                _log.exception("request_failed", route=request_state(scope).template)
            if not started:
                await render(scope, error)(scope, receive, send)
            elif not complete:
                raise
