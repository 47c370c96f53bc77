"""What the pipeline finds out about a request, handed from stage to stage in the ASGI scope."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from starlette.types import Scope

from wireroom_common.errors import WireroomError
from wireroom_common.principal import ANONYMOUS, Principal
from wireroom_gateway.access import WEBSOCKET, DeclaredRoute, Match

_KEY = "wireroom"
# In the scope of a request that is the handshake of a WebSocket.
HANDSHAKE_KEY = "wireroom.handshake"
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


@dataclass(slots=True)
class RequestState:
    """Filled in from the outermost stage inwards."""

    request_id: str
    # Of the client, as far as trusted proxies tell; a limit's or a log's matter.
    client_ip: str
    # Of the other end of the connection, and whether there are signs of somebody in between: what local access depends on.
    peer_ip: str = ""
    relayed: bool = False
    match: Match | None = None
    route: DeclaredRoute | None = None
    principal: Principal = ANONYMOUS
    # Of an API key: its own requests per minute by bucket.
    limits: Mapping[str, int] = field(default_factory=dict)
    # Why a presented credential was not accepted; the limits are charged before it is told.
    credential_error: WireroomError | None = None
    # Of a WebSocket: when its credential ends, wall-clock time; None for never.
    credential_until: float | None = None
    status: int = 0
    response_bytes: int = 0
    error_code: str = ""
    extra_headers: list[tuple[bytes, bytes]] = field(default_factory=list)

    @property
    def template(self) -> str:
        """The route's template as a label: a closed set."""
        return self.match.template if self.match else "unmatched"


def method_label(scope: Scope) -> str:
    """The method as a label: a closed set."""
    if HANDSHAKE_KEY in scope:
        return WEBSOCKET
    method = str(scope["method"])
    return method if method in _METHODS else "OTHER"


def attach(scope: Scope, state: RequestState) -> None:
    """Put the state into the scope."""
    scope[_KEY] = state


def request_state(scope: Scope) -> RequestState:
    """The state of the request."""
    state: RequestState = scope[_KEY]
    return state
