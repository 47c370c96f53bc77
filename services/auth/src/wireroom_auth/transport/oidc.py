"""OidcService."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from wireroom_auth.ports.second_factors import Challenge
from wireroom_auth.transport.messages import tokens_message, user_message
from wireroom_auth.usecases.login import client_of
from wireroom_auth.usecases.oidc import FinishOidc, Providers, ReturnedLogin, StartOidc
from wireroom_protos.auth.v1 import auth_pb2, auth_pb2_grpc


@dataclass(frozen=True)
class OidcServicer(auth_pb2_grpc.OidcServiceServicer):
    """Message → use case → message."""

    providers: Providers
    start: StartOidc
    finish: FinishOidc

    async def ListProviders(  # noqa: N802
        self,
        request: auth_pb2.ListProvidersRequest,  # noqa: ARG002
        context: Any,  # noqa: ARG002
    ) -> auth_pb2.ListProvidersResponse:
        return auth_pb2.ListProvidersResponse(
            providers=[auth_pb2.OidcProvider(name=provider.name, title=provider.title) for provider in self.providers.all()]
        )

    async def StartOidc(self, request: auth_pb2.StartOidcRequest, context: Any) -> auth_pb2.StartOidcResponse:  # noqa: ARG002, N802
        started = await self.start.run(request.provider, request.return_to)
        return auth_pb2.StartOidcResponse(
            authorization_url=started.authorization_url, browser_binding=started.binding, expires_in=started.expires_in
        )

    async def FinishOidc(self, request: auth_pb2.FinishOidcRequest, context: Any) -> auth_pb2.FinishOidcResponse:  # noqa: ARG002, N802
        returned = ReturnedLogin(
            provider=request.provider,
            state=request.state,
            code=request.code,
            issuer=request.issuer,
            binding=request.browser_binding,
            error=request.error,
            client=client_of(request.client_ip, request.user_agent),
        )
        proven, user, return_to = await self.finish.run(returned)
        if isinstance(proven, Challenge):
            return auth_pb2.FinishOidcResponse(mfa_token=proven.mfa_token, mfa_expires_in=proven.expires_in, return_to=return_to)
        return auth_pb2.FinishOidcResponse(
            tokens=tokens_message(proven), user=user_message(user, user.permissions), return_to=return_to
        )
