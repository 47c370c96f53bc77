"""From the handshake of a WebSocket to a request of the pipeline, and from its answer to the WebSocket's.

The pipeline sees a GET with the credential in the Authorization header, wherever the client could put it: a browser can set no header,
so it sends `Sec-WebSocket-Protocol: wireroom.v1, bearer.<token>`, or a one-time ticket as `?ticket=`. A refusal is answered as HTTP
(ASGI extension `websocket.http.response`) with the problem document that any request would get. Once the route has taken the
connection, nothing of the pipeline remains around it.
"""

from __future__ import annotations

import re
from typing import Any, Protocol, cast
from urllib.parse import parse_qsl, unquote_plus

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from wireroom_common.runtime.http_limits import REFUSAL_KEY, Refusal
from wireroom_gateway.request_state import HANDSHAKE_KEY, request_state
from wireroom_gateway.websocket.tickets import SCHEME

PROTOCOL = "wireroom.v1"
_BEARER = "bearer."
_TICKET = "ticket"
_ACCEPTED_KEY = "wireroom.websocket"
# What clients call a token or key where they put it into an address.
_SECRET_NAMES = frozenset({"access_token", "api_key", "apikey", "auth", "authorization", "bearer", "jwt", "key", "token"})
_SECRET = re.compile(r"wr_(?!wt_)|eyJ")
# Of no meaning to the stages; a refusal is short and needs no compression.
_DROPPED = frozenset({b"sec-websocket-protocol", b"sec-websocket-key", b"sec-websocket-extensions", b"accept-encoding"})

_IN_ADDRESS = Refusal(
    400,
    "credential_in_address",
    "A token or API key must not stand in an address, which is logged on its way. Send it as"
    " 'Sec-WebSocket-Protocol: wireroom.v1, bearer.<token>', or get a ticket from POST /api/v1/ws-tickets and send '?ticket='.",
)
_AMBIGUOUS = Refusal(
    400, "credential_ambiguous", "Send one credential: an Authorization header, a subprotocol 'bearer.<token>' or a ticket."
)
_NO_PROTOCOL = Refusal(400, "subprotocol_unsupported", f"The subprotocol spoken here is '{PROTOCOL}'.")


class Accepted(Protocol):
    """A connection that the route has taken."""

    async def run(self, receive: Receive, send: Send) -> None:
        """Serve it until it ends."""

    def release(self) -> None:
        """Called once, when it is over or did not come about."""


def accept(scope: Scope, connection: Accepted) -> None:
    """For the route: take the connection whose handshake `scope` is."""
    request_state(scope).status = 101
    scope[_ACCEPTED_KEY] = connection


class Upgrades:
    """The application for WebSocket scopes, around the pipeline."""

    def __init__(self, pipeline: ASGIApp) -> None:
        self._pipeline = pipeline

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "websocket" or (await receive())["type"] != "websocket.connect":
            return
        request = handshake_request(scope)
        try:
            await self._pipeline(request, _no_body, _denial(send))
            connection = cast("Accepted | None", request.get(_ACCEPTED_KEY))
            if connection is None:
                return
            state = request_state(request)
            await send(
                {
                    "type": "websocket.accept",
                    "subprotocol": PROTOCOL if scope["subprotocols"] else None,
                    "headers": [(b"x-request-id", state.request_id.encode()), *state.extra_headers],
                }
            )
        except BaseException:
            _release(request)
            raise
        # A connection lives long, and its handshake is a good part of its memory.
        request.clear()
        state.extra_headers = []
        del request, scope, state
        try:
            await connection.run(receive, send)
        finally:
            connection.release()


def _release(request: Scope) -> None:
    connection = request.get(_ACCEPTED_KEY)
    if connection is not None:
        connection.release()


def handshake_request(scope: Scope) -> dict[str, Any]:
    """The handshake as a request. What is wrong with it is noted as the listener notes it, for the pipeline to tell."""
    request: dict[str, Any] = {
        **scope,
        "type": "http",
        "method": "GET",
        "scheme": "https" if scope["scheme"] == "wss" else "http",
        HANDSHAKE_KEY: True,
    }
    headers = [entry for entry in scope["headers"] if entry[0] not in _DROPPED]
    bearers = [name.removeprefix(_BEARER) for name in scope["subprotocols"] if name.startswith(_BEARER)]
    credentials = [f"Bearer {token}" for token in bearers]
    refusal = None
    if scope["query_string"]:
        refusal, tickets = _read_query(request)
        credentials += [f"{SCHEME} {ticket}" for ticket in tickets]
    if len(credentials) + any(name == b"authorization" for name, _ in headers) > 1:
        refusal = refusal or _AMBIGUOUS
    elif credentials:
        headers.append((b"authorization", credentials[0].encode("latin-1", "replace")))
    if scope["subprotocols"] and PROTOCOL not in scope["subprotocols"]:
        refusal = refusal or _NO_PROTOCOL
    request["headers"] = headers
    if refusal is not None:
        request[REFUSAL_KEY] = refusal
    return request


def _read_query(request: dict[str, Any]) -> tuple[Refusal | None, list[str]]:
    """Takes the tickets out of the query."""
    raw: bytes = request["query_string"]
    parameters = parse_qsl(raw.decode("latin-1"), keep_blank_values=True)
    tickets = [value for name, value in parameters if name == _TICKET]
    kept = [part for part in raw.split(b"&") if unquote_plus(part.partition(b"=")[0].decode("latin-1")) != _TICKET]
    request["query_string"] = b"&".join(kept)
    if any(name.lower() in _SECRET_NAMES or _SECRET.match(value) for name, value in parameters):
        request["query_string"] = b""
        return _IN_ADDRESS, []
    return None, tickets


async def _no_body() -> Message:
    return {"type": "http.request", "body": b"", "more_body": False}


def _denial(send: Send) -> Send:
    async def send_denial(message: Message) -> None:
        await send({**message, "type": f"websocket.{message['type']}"})

    return send_denial
