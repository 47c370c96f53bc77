"""`WS /api/v1/ws/{session_id}` and `POST /api/v1/ws-tickets`. Frames and close codes: docs/reference/websocket.md."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fastapi import FastAPI, Request
from starlette.routing import WebSocketRoute
from starlette.types import Receive, Scope, Send

from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_gateway.access import Bucket, access
from wireroom_gateway.request_state import request_state
from wireroom_gateway.routes.application import problem_responses
from wireroom_gateway.routes.fields import Output
from wireroom_gateway.websocket.conversation import PERMISSION, Conversation, Surroundings
from wireroom_gateway.websocket.handshake import accept
from wireroom_gateway.websocket.tickets import Tickets

PATH = "/api/v1/ws/{session_id}"


@dataclass(frozen=True)
class Sockets:
    """What WebSockets need besides the routes."""

    tickets: Tickets
    surroundings: Surroundings


class TicketOutput(Output):
    """Good once, as `?ticket=`, for `expires_in` seconds."""

    ticket: str
    expires_in: int


@access(PERMISSION, bucket=Bucket.CHAT, prompt=True)
class ChatSocket:
    """Takes permitted handshakes."""

    def __init__(self, sockets: Callable[[], Sockets]) -> None:
        self._sockets = sockets

    async def __call__(self, scope: Scope, _receive: Receive, _send: Send) -> None:
        shared = self._sockets().surroundings
        state = request_state(scope)
        shared.connections.take(state.principal)
        accept(scope, Conversation(shared, state, scope["path"].rpartition("/")[2]))


def add_websocket_routes(api: FastAPI, sockets: Callable[[], Sockets]) -> None:
    """The WebSocket and its tickets. `sockets` is called with the first request."""
    api.router.routes.append(WebSocketRoute(PATH, ChatSocket(sockets)))

    @api.post("/api/v1/ws-tickets", tags=["chat"], status_code=201, responses=problem_responses(409))
    @access(PERMISSION, secret_answer=True)
    async def create_ws_ticket(request: Request) -> TicketOutput:
        scheme, _, credential = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            raise WireroomError(
                ErrorKind.CONFLICT,
                "ticket_needs_bearer",
                "A ticket stands for an access token or an API key. Who signs requests signs the handshake.",
            )
        tickets = sockets().tickets
        ticket = await tickets.issue(credential, request_state(request.scope).client_ip)
        return TicketOutput(ticket=ticket, expires_in=int(tickets.lifetime))
