"""Servicers: message → use case → message. Errors are `WireroomError`s, which the server turns into statuses."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from wireroom_auth.domain.permissions import permissions_of
from wireroom_auth.ports.cryptography import AccessTokenSigner
from wireroom_auth.transport.messages import key_message, timestamp, tokens_message, user_message
from wireroom_auth.usecases.create_key import CreateKey
from wireroom_auth.usecases.get_me import GetMe
from wireroom_auth.usecases.list_keys import ListKeys
from wireroom_auth.usecases.list_revocations import ListRevocations
from wireroom_auth.usecases.login import Attempt, Login
from wireroom_auth.usecases.logout import Logout
from wireroom_auth.usecases.refresh import Refresh
from wireroom_auth.usecases.register import Register, Registration
from wireroom_auth.usecases.revoke_key import RevokeKey
from wireroom_auth.usecases.verify_key import VerifyKey
from wireroom_common.errors import invalid
from wireroom_common.principal import current_principal
from wireroom_protos.auth.v1 import auth_pb2, auth_pb2_grpc

_AUTH = "/wireroom_protos.auth.v1.AuthService"
_KEYS = "/wireroom_protos.auth.v1.ApiKeyService"

# What is called before anybody is known, or by the gateway to find out who calls.
PUBLIC_RPCS = frozenset(
    {
        f"{_AUTH}/Register",
        f"{_AUTH}/Login",
        f"{_AUTH}/Refresh",
        f"{_AUTH}/GetJwks",
        f"{_AUTH}/ListRevocations",
        f"{_KEYS}/VerifyKey",
    }
)


@dataclass(frozen=True)
class AuthServicer(auth_pb2_grpc.AuthServiceServicer):
    """AuthService."""

    register: Register
    login: Login
    refresh: Refresh
    logout: Logout
    get_me: GetMe
    list_revocations: ListRevocations
    signer: AccessTokenSigner

    async def Register(self, request: auth_pb2.RegisterRequest, context: Any) -> auth_pb2.RegisterResponse:  # noqa: ARG002, N802
        user = await self.register.run(
            Registration(email=request.email, name=request.name, password=request.password, admin_token=request.admin_token)
        )
        return auth_pb2.RegisterResponse(user=user_message(user, permissions_of(user.roles)))

    async def Login(self, request: auth_pb2.LoginRequest, context: Any) -> auth_pb2.LoginResponse:  # noqa: ARG002, N802
        tokens, user = await self.login.run(
            Attempt(email=request.email, password=request.password, client_ip=request.client_ip, user_agent=request.user_agent)
        )
        return auth_pb2.LoginResponse(tokens=tokens_message(tokens), user=user_message(user, permissions_of(user.roles)))

    async def Refresh(self, request: auth_pb2.RefreshRequest, context: Any) -> auth_pb2.RefreshResponse:  # noqa: ARG002, N802
        return auth_pb2.RefreshResponse(tokens=tokens_message(await self.refresh.run(request.refresh_token)))

    async def Logout(self, request: auth_pb2.LogoutRequest, context: Any) -> auth_pb2.LogoutResponse:  # noqa: ARG002, N802
        await self.logout.run(current_principal())
        return auth_pb2.LogoutResponse()

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
        return auth_pb2.ListRevocationsResponse(
            revocations=[
                auth_pb2.Revocation(credential_id=str(found.credential_id), revoked_at=timestamp(found.revoked_at))
                for found in await self.list_revocations.run(since)
            ]
        )


@dataclass(frozen=True)
class ApiKeyServicer(auth_pb2_grpc.ApiKeyServiceServicer):
    """ApiKeyService."""

    create_key: CreateKey
    list_keys: ListKeys
    revoke_key: RevokeKey
    verify_key: VerifyKey

    async def CreateKey(self, request: auth_pb2.CreateKeyRequest, context: Any) -> auth_pb2.CreateKeyResponse:  # noqa: ARG002, N802
        key, secret = await self.create_key.run(current_principal(), request.name, request.permissions, request.ttl_seconds)
        return auth_pb2.CreateKeyResponse(key=key_message(key), secret=secret)

    async def ListKeys(self, request: auth_pb2.ListKeysRequest, context: Any) -> auth_pb2.ListKeysResponse:  # noqa: ARG002, N802
        keys, next_page = await self.list_keys.run(current_principal(), request.page_size, request.page_token)
        return auth_pb2.ListKeysResponse(keys=[key_message(key) for key in keys], next_page_token=next_page)

    async def RevokeKey(self, request: auth_pb2.RevokeKeyRequest, context: Any) -> auth_pb2.RevokeKeyResponse:  # noqa: ARG002, N802
        await self.revoke_key.run(current_principal(), request.id)
        return auth_pb2.RevokeKeyResponse()

    async def VerifyKey(self, request: auth_pb2.VerifyKeyRequest, context: Any) -> auth_pb2.VerifyKeyResponse:  # noqa: ARG002, N802
        owned, permissions = await self.verify_key.run(request.secret)
        return auth_pb2.VerifyKeyResponse(
            key_id=str(owned.key.id),
            tenant_id=str(owned.key.tenant_id),
            user_id=str(owned.owner.id),
            roles=sorted(owned.owner.roles),
            permissions=sorted(permissions),
            expires_at=timestamp(owned.key.expires_at),
        )


def _moment(request: auth_pb2.ListRevocationsRequest) -> datetime:
    try:
        return request.since.ToDatetime(tzinfo=UTC)
    except (ValueError, OverflowError):
        raise invalid("since_out_of_range", "'since' is not a moment between the years 1 and 9999.", field="since") from None
