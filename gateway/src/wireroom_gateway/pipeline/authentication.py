"""Who is calling: an access token or an API key in the Authorization header, or an API key's signature, and nowhere else."""

from __future__ import annotations

from dataclasses import replace
from uuid import UUID

from starlette.types import ASGIApp, Receive, Scope, Send

from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_common.principal import ANONYMOUS, PrincipalKind, set_current_principal
from wireroom_gateway.access import Need
from wireroom_gateway.identity.api_keys import PREFIX, ApiKeyVerifier
from wireroom_gateway.identity.request_signatures import RequestSignatures, checked_body
from wireroom_gateway.identity.tokens import TokenVerifier, credential_refused, expiry_of
from wireroom_gateway.metrics import GatewayMetrics
from wireroom_gateway.request_state import HANDSHAKE_KEY, RequestState, request_state
from wireroom_gateway.websocket.tickets import SCHEME, Tickets


class Authentication:
    """Sets the principal of the request and of the calls made for it.

    Public routes stay anonymous whatever is presented. A refused credential is told after the limits are charged, so that guessing
    costs what any anonymous request costs.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        tokens: TokenVerifier,
        keys: ApiKeyVerifier,
        signatures: RequestSignatures,
        tickets: Tickets,
        token_leeway: float,
        metrics: GatewayMetrics,
    ) -> None:
        self._app = app
        self._tokens = tokens
        self._keys = keys
        self._signatures = signatures
        self._tickets = tickets
        self._leeway = token_leeway
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        state = request_state(scope)
        if state.route is not None and state.route.access.need is not Need.NOTHING:
            presented = [value for name, value in scope["headers"] if name == b"authorization"]
            signed = any(name in (b"signature", b"signature-input") for name, _ in scope["headers"])
            if presented or signed:
                try:
                    if signed:
                        receive = await self._identify_signed(scope, receive, state, bare=not presented)
                    elif HANDSHAKE_KEY in scope:
                        await self._identify_for_long(presented, state)
                    else:
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
            self._metrics.credential("other", "refused")
            raise credential_refused("Send one Authorization header: 'Bearer <access token or API key>'.")
        kind = "api_key" if credential.startswith(PREFIX) else "token"
        try:
            if kind == "api_key":
                key, cached = await self._keys.verify(credential)
                state.principal, state.limits = key.principal, key.limits
            else:
                state.principal, cached = await self._tokens.verify(credential)
                if state.principal.kind is PrincipalKind.API_KEY:
                    await self._narrow(state)
        except WireroomError as error:
            outcome = "refused" if error.kind is ErrorKind.UNAUTHENTICATED else "unavailable"
            self._metrics.credential(kind, outcome)
            raise
        self._metrics.credential(kind, "cached" if cached else "verified")

    async def _identify_for_long(self, presented: list[bytes], state: RequestState) -> None:
        """The handshake of a WebSocket: with a ticket for the credential, and the time at which the credential ends."""
        scheme, _, credential = presented[0].decode("latin-1").partition(" ")
        if len(presented) == 1 and scheme == SCHEME:
            credential = await self._redeemed(credential, state)
            presented = [f"Bearer {credential}".encode("ascii")]
        await self._identify(presented, state)
        if not credential.startswith(PREFIX):
            state.credential_until = expiry_of(credential) + self._leeway
        if state.principal.kind is PrincipalKind.API_KEY:
            key, _ = await self._keys.named(UUID(state.principal.credential_id))
            ends = [until for until in (state.credential_until, key.expires_at) if until is not None]
            state.credential_until = min(ends, default=None)

    async def _redeemed(self, ticket: str, state: RequestState) -> str:
        try:
            credential = await self._tickets.redeem(ticket, state.client_ip)
        except WireroomError as error:
            outcome = "refused" if error.kind is ErrorKind.UNAUTHENTICATED else "unavailable"
            self._metrics.credential("ticket", outcome)
            raise
        self._metrics.credential("ticket", "verified")
        return credential

    async def _narrow(self, state: RequestState) -> None:
        """A token that a key was exchanged for is worth no more than the key is now."""
        token, state.principal = state.principal, ANONYMOUS
        key, _ = await self._keys.named(UUID(token.credential_id))
        if key.signature_required or (key.principal.subject, key.principal.tenant_id) != (token.subject, token.tenant_id):
            raise credential_refused("The access token is not valid.")
        state.principal = replace(token, permissions=token.permissions & key.principal.permissions)
        state.limits = key.limits

    async def _identify_signed(self, scope: Scope, receive: Receive, state: RequestState, *, bare: bool) -> Receive:
        """Sets the principal; the body that `receive` gives is checked while it comes in."""
        try:
            if not bare:
                raise credential_refused("Send either an Authorization header or a signature, not both.")
            request = await self._signatures.verify(scope)
        except WireroomError as error:
            outcome = "refused" if error.kind is ErrorKind.UNAUTHENTICATED else "unavailable"
            self._metrics.credential("signature", outcome)
            raise
        self._metrics.credential("signature", "cached" if request.cached else "verified")
        state.principal, state.limits = request.key.principal, request.key.limits
        state.credential_until = request.key.expires_at
        return checked_body(receive, request.digests)
