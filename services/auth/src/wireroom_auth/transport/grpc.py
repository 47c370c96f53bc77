"""Servicers: message → use case → message. Errors are `WireroomError`s, which the server turns into statuses."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from wireroom_auth.ports.cryptography import AccessTokenSigner
from wireroom_auth.transport.mailed_tokens import MailedTokenMethods, MailedTokenUseCases
from wireroom_auth.transport.messages import timestamp, user_message
from wireroom_auth.transport.sessions import SessionMethods, SessionUseCases
from wireroom_auth.usecases.get_me import GetMe
from wireroom_auth.usecases.issue_token import IssueToken
from wireroom_auth.usecases.list_revocations import ListRevocations
from wireroom_auth.usecases.register import Register, Registration
from wireroom_common.errors import invalid
from wireroom_common.principal import current_principal
from wireroom_protos.auth.v1 import auth_pb2, auth_pb2_grpc

_AUTH = "/wireroom_protos.auth.v1.AuthService"
_KEYS = "/wireroom_protos.auth.v1.ApiKeyService"
_FACTORS = "/wireroom_protos.auth.v1.SecondFactorService"
_OIDC = "/wireroom_protos.auth.v1.OidcService"

# What is called before anybody is known, or by the gateway to find out who calls.
PUBLIC_RPCS = frozenset(
    {
        f"{_AUTH}/Register",
        f"{_AUTH}/Login",
        f"{_AUTH}/Refresh",
        f"{_AUTH}/GetJwks",
        f"{_AUTH}/ListRevocations",
        f"{_AUTH}/IssueToken",
        f"{_AUTH}/StartReset",
        f"{_AUTH}/FinishReset",
        f"{_AUTH}/VerifyEmail",
        f"{_FACTORS}/FinishLogin",
        f"{_OIDC}/ListProviders",
        f"{_OIDC}/StartOidc",
        f"{_OIDC}/FinishOidc",
        f"{_KEYS}/VerifyKey",
    }
)


@dataclass(frozen=True)
class AuthServicer(SessionMethods, MailedTokenMethods, auth_pb2_grpc.AuthServiceServicer):
    """AuthService."""

    register: Register
    sessions: SessionUseCases
    get_me: GetMe
    list_revocations: ListRevocations
    signer: AccessTokenSigner
    issue_token: IssueToken
    mailed_tokens: MailedTokenUseCases

    async def IssueToken(self, request: auth_pb2.IssueTokenRequest, context: Any) -> auth_pb2.IssueTokenResponse:  # noqa: ARG002, N802
        token = await self.issue_token.run(request.client_id, request.client_secret, request.scope)
        return auth_pb2.IssueTokenResponse(access_token=token.access_token, expires_in=token.expires_in, scope=token.scope)

    async def Register(self, request: auth_pb2.RegisterRequest, context: Any) -> auth_pb2.RegisterResponse:  # noqa: ARG002, N802
        user = await self.register.run(
            Registration(
                email=request.email,
                name=request.name,
                password=request.password,
                admin_token=request.admin_token,
                invitation_token=request.invitation_token,
            )
        )
        return auth_pb2.RegisterResponse(user=user_message(user, user.permissions))

    async def GetMe(self, request: auth_pb2.GetMeRequest, context: Any) -> auth_pb2.GetMeResponse:  # noqa: ARG002, N802
        user, permissions = await self.get_me.run(current_principal())
        return auth_pb2.GetMeResponse(user=user_message(user, permissions))

    async def GetJwks(self, request: auth_pb2.GetJwksRequest, context: Any) -> auth_pb2.GetJwksResponse:  # noqa: ARG002, N802
        return auth_pb2.GetJwksResponse(jwks_json=await self.signer.jwks())

    async def ListRevocations(  # noqa: N802
        self,
        request: auth_pb2.ListRevocationsRequest,
        context: Any,  # noqa: ARG002
    ) -> auth_pb2.ListRevocationsResponse:
        since = _moment(request) if request.HasField("since") else None
        revocations, epochs = await self.list_revocations.run(since)
        return auth_pb2.ListRevocationsResponse(
            revocations=[
                auth_pb2.Revocation(credential_id=str(found.credential_id), revoked_at=timestamp(found.revoked_at))
                for found in revocations
            ],
            epochs=[
                auth_pb2.RaisedEpoch(
                    tenant_id=str(found.tenant_id),
                    user_id=str(found.user_id or ""),
                    epoch=found.epoch,
                    raised_at=timestamp(found.raised_at),
                )
                for found in epochs
            ],
        )


def _moment(request: auth_pb2.ListRevocationsRequest) -> datetime:
    try:
        return request.since.ToDatetime(tzinfo=UTC)
    except (ValueError, OverflowError):
        raise invalid("since_out_of_range", "'since' is not a moment between the years 1 and 9999.", field="since") from None
