"""Who is calling: an access token or an API key in the Authorization header, and nowhere else."""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_common.principal import set_current_principal
from wireroom_gateway.access import Need
from wireroom_gateway.identity.api_keys import PREFIX, ApiKeyVerifier
from wireroom_gateway.identity.tokens import TokenVerifier, credential_refused
from wireroom_gateway.metrics import GatewayMetrics
from wireroom_gateway.request_state import RequestState, request_state


class Authentication:
    """Sets the principal of the request and of the calls made for it.

    Public routes stay anonymous whatever is presented. A refused credential is told after the limits are charged, so that guessing
    costs what any anonymous request costs.
    """

    def __init__(self, app: ASGIApp, *, tokens: TokenVerifier, keys: ApiKeyVerifier, metrics: GatewayMetrics) -> None:
        self._app = app
        self._tokens = tokens
        self._keys = keys
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        state = request_state(scope)
        if state.route is not None and state.route.access.need is not Need.NOTHING:
            presented = [value for name, value in scope["headers"] if name == b"authorization"]
            if presented:
                try:
                    await self._identify(presented, state)
                except WireroomError as error:
                    if error.kind is not ErrorKind.UNAUTHENTICATED:
                        raise
                    state.credential_error = error
        set_current_principal(state.principal)
        await self._app(scope, receive, send)

    async def _identify(self, presented: list[bytes], state: RequestState) -> None:
        scheme, _, credential = presented[0].decode("latin-1").partition(" ")
        if len(presented) != 1 or scheme.lower() != "bearer":
            self._metrics.credentials.labels("other", "refused").inc()
            raise credential_refused("Send one Authorization header: 'Bearer <access token or API key>'.")
        kind = "api_key" if credential.startswith(PREFIX) else "token"
        verifier = self._keys if kind == "api_key" else self._tokens
        try:
            state.principal, cached = await verifier.verify(credential)
        except WireroomError as error:
            outcome = "refused" if error.kind is ErrorKind.UNAUTHENTICATED else "unavailable"
            self._metrics.credentials.labels(kind, outcome).inc()
            raise
        self._metrics.credentials.labels(kind, "cached" if cached else "verified").inc()
