"""Outermost stage: the request's id and state; what the answer's head must carry in any case."""

from __future__ import annotations

import re

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from wireroom_common.ids import new_hex_id
from wireroom_common.rpc.context import set_client_address, set_request_id
from wireroom_gateway.access import WEBSOCKET, RouteTable
from wireroom_gateway.client_address import ClientAddresses
from wireroom_gateway.request_state import HANDSHAKE_KEY, RequestState, attach

_SANE = re.compile(rb"[A-Za-z0-9._-]{8,64}")


class RequestId:
    """Takes a sane `x-request-id` over or makes one; services, logs and the answer carry it."""

    def __init__(self, app: ASGIApp, *, table: RouteTable, addresses: ClientAddresses) -> None:
        self._app = app
        self._addresses = addresses
        self._table = table

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            # Handshakes of WebSockets come as requests; an ASGI server ends anything else when the application returns.
            return
        given = [entry[1] for entry in scope["headers"] if entry[0] == b"x-request-id"]
        request_id = given[0].decode() if len(given) == 1 and _SANE.fullmatch(given[0]) else new_hex_id()
        origin = self._addresses.claim(scope)
        state = RequestState(request_id, origin.client)
        state.peer_ip, state.relayed = origin.peer, origin.relayed
        state.match = self._table.match(scope["path"])
        if state.match is not None:
            state.route = state.match.methods.get(WEBSOCKET if HANDSHAKE_KEY in scope else scope["method"])
            if state.route is not None and state.route.access.deprecated is not None:
                state.extra_headers += state.route.access.deprecated.headers()
        attach(scope, state)
        set_request_id(request_id)
        set_client_address(state.client_ip)
        structlog.contextvars.bind_contextvars(request_id=request_id)

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                state.status = message["status"]
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", request_id.encode()), *state.extra_headers]
            elif message["type"] == "http.response.body":
                state.response_bytes += len(message.get("body", b""))
            await send(message)

        await self._app(scope, receive, send_with_id)
