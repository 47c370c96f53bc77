"""Nothing passes that the route table does not allow."""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_common.principal import PrincipalKind
from wireroom_gateway.access import WEBSOCKET, Need
from wireroom_gateway.problems import http_problem
from wireroom_gateway.request_state import request_state


class Permissions:
    """404, 405 and 426 for what is not in the table, 401 without a good credential, 403 without the permission."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        state = request_state(scope)
        if state.match is None:
            raise http_problem(404, "There is nothing at this address. See /docs.", code="route_not_found")
        if state.route is None:
            allowed = ", ".join(sorted(state.match.methods.keys() - {WEBSOCKET}))
            if not allowed:
                raise http_problem(
                    426, "This address takes WebSockets only. See docs/reference/websocket.md.", headers={"upgrade": "websocket"}
                )
            raise http_problem(405, f"This address takes {allowed}.", headers={"allow": allowed})
        need = state.route.access.need
        if need is not Need.NOTHING:
            if state.credential_error is not None:
                raise state.credential_error
            if state.principal.kind is PrincipalKind.ANONYMOUS:
                raise WireroomError(
                    ErrorKind.UNAUTHENTICATED,
                    "credential_missing",
                    "Sign in: send 'Authorization: Bearer <access token or API key>'.",
                )
            if isinstance(need, str):
                state.principal.require(need)
        await self._app(scope, receive, send)
