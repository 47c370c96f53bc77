"""Accounts, sessions and API keys."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from fastapi import FastAPI, Request, Response
from pydantic import Field

from wireroom_common.principal import current_principal
from wireroom_gateway.access import Bucket, Need, access
from wireroom_gateway.request_state import request_state
from wireroom_gateway.routes.application import problem_responses
from wireroom_gateway.routes.fields import Input, Line, Output, PageSize, PageToken, moment
from wireroom_gateway.services import Services
from wireroom_protos.auth.v1 import auth_pb2

_MAX_USER_AGENT = 300
Secret = Annotated[str, Field(min_length=1, max_length=4_096, pattern=r"^[^\x00]*$")]


class RegisterInput(Input):
    """A new account."""

    email: Line
    password: Secret
    name: Annotated[str, Field(max_length=200, pattern=r"^[^\x00]*$")] = ""
    admin_token: Annotated[str, Field(max_length=200, pattern=r"^[^\x00]*$")] = ""


class LoginInput(Input):
    """Credentials."""

    email: Line
    password: Secret


class RefreshInput(Input):
    """A refresh token; it is spent by this."""

    refresh_token: Secret


class CreateKeyInput(Input):
    """A new API key: `permissions` empty for all of the owner's, `ttl_seconds` 0 for no expiry."""

    name: Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00]*$")]
    permissions: Annotated[list[Line], Field(max_length=100, default_factory=list)]
    ttl_seconds: Annotated[int, Field(ge=0, le=10 * 366 * 86_400)] = 0


class UserOutput(Output):
    """An account."""

    id: str
    tenant_id: str
    email: str
    name: str
    roles: list[str]
    permissions: list[str]
    created_at: datetime | None


class TokensOutput(Output):
    """A session's tokens; `expires_in` in seconds is that of the access token."""

    access_token: str
    refresh_token: str
    token_type: str = "Bearer"  # noqa: S105 - the scheme's name
    expires_in: int
    session_id: str


class LoginOutput(TokensOutput):
    """Tokens and whose they are."""

    user: UserOutput


class PermissionsOutput(Output):
    """What the presented credential may do."""

    kind: str
    subject: str
    roles: list[str]
    permissions: list[str]


class KeyOutput(Output):
    """An API key without its secret."""

    id: str
    name: str
    prefix: str
    permissions: list[str]
    owner_id: str
    created_at: datetime | None
    expires_at: datetime | None
    last_used_at: datetime | None


class CreatedKeyOutput(KeyOutput):
    """An API key with its secret, which is shown this once."""

    secret: str


class KeysOutput(Output):
    """A page of API keys."""

    keys: list[KeyOutput]
    next_page_token: str


def add_auth_routes(api: FastAPI, services: Services, *, timeout: float) -> None:
    """`/auth/*`."""

    @api.post("/auth/register", status_code=201, tags=["auth"], responses=problem_responses(409, 415))
    @access(Need.NOTHING, bucket=Bucket.AUTH)
    async def register(body: RegisterInput) -> UserOutput:
        answer = await services.auth.Register(
            auth_pb2.RegisterRequest(email=body.email, password=body.password, name=body.name, admin_token=body.admin_token),
            timeout=timeout,
        )
        return _user(answer.user)

    @api.post("/auth/login", tags=["auth"], responses=problem_responses(415))
    @access(Need.NOTHING, bucket=Bucket.AUTH)
    async def login(body: LoginInput, request: Request) -> LoginOutput:
        answer = await services.auth.Login(
            auth_pb2.LoginRequest(
                email=body.email,
                password=body.password,
                client_ip=request_state(request.scope).client_ip,
                user_agent=request.headers.get("user-agent", "")[:_MAX_USER_AGENT],
            ),
            timeout=timeout,
        )
        return LoginOutput(**_tokens(answer.tokens).model_dump(), user=_user(answer.user))

    @api.post("/auth/refresh", tags=["auth"], responses=problem_responses(415))
    @access(Need.NOTHING)
    async def refresh(body: RefreshInput) -> TokensOutput:
        answer = await services.auth.Refresh(auth_pb2.RefreshRequest(refresh_token=body.refresh_token), timeout=timeout)
        return _tokens(answer.tokens)

    @api.post("/auth/logout", status_code=204, tags=["auth"])
    @access(Need.SIGNED_IN)
    async def logout() -> Response:
        await services.auth.Logout(auth_pb2.LogoutRequest(), timeout=timeout)
        return Response(status_code=204)

    @api.get("/auth/me", tags=["auth"])
    @access(Need.SIGNED_IN)
    async def me() -> UserOutput:
        answer = await services.auth.GetMe(auth_pb2.GetMeRequest(), timeout=timeout)
        return _user(answer.user)

    @api.get("/auth/permissions", tags=["auth"])
    @access(Need.SIGNED_IN)
    async def permissions() -> PermissionsOutput:
        principal = current_principal()
        return PermissionsOutput(
            kind=principal.kind.value,
            subject=principal.subject,
            roles=sorted(principal.roles),
            permissions=sorted(principal.permissions),
        )

    @api.post("/auth/api-keys", status_code=201, tags=["auth"], responses=problem_responses(415))
    @access("apikeys:manage:own")
    async def create_key(body: CreateKeyInput) -> CreatedKeyOutput:
        answer = await services.api_keys.CreateKey(
            auth_pb2.CreateKeyRequest(name=body.name, permissions=body.permissions, ttl_seconds=body.ttl_seconds), timeout=timeout
        )
        return CreatedKeyOutput(**_key(answer.key).model_dump(), secret=answer.secret)

    @api.get("/auth/api-keys", tags=["auth"])
    @access("apikeys:manage:own")
    async def list_keys(page_size: PageSize = 50, page_token: PageToken = "") -> KeysOutput:
        answer = await services.api_keys.ListKeys(
            auth_pb2.ListKeysRequest(page_size=page_size, page_token=page_token), timeout=timeout
        )
        return KeysOutput(keys=[_key(key) for key in answer.keys], next_page_token=answer.next_page_token)

    @api.delete("/auth/api-keys/{id}", status_code=204, tags=["auth"], responses=problem_responses(404))
    @access("apikeys:manage:own")
    async def revoke_key(id: str) -> Response:  # noqa: A002 - the path's name for it
        await services.api_keys.RevokeKey(auth_pb2.RevokeKeyRequest(id=id), timeout=timeout)
        return Response(status_code=204)


def _user(user: auth_pb2.User) -> UserOutput:
    return UserOutput(
        id=user.id,
        tenant_id=user.tenant_id,
        email=user.email,
        name=user.name,
        roles=list(user.roles),
        permissions=list(user.permissions),
        created_at=moment(user, "created_at"),
    )


def _tokens(tokens: auth_pb2.Tokens) -> TokensOutput:
    return TokensOutput(
        access_token=tokens.access_token,
        refresh_token=tokens.refresh_token,
        expires_in=tokens.expires_in,
        session_id=tokens.session_id,
    )


def _key(key: auth_pb2.ApiKey) -> KeyOutput:
    return KeyOutput(
        id=key.id,
        name=key.name,
        prefix=key.prefix,
        permissions=list(key.permissions),
        owner_id=key.owner_id,
        created_at=moment(key, "created_at"),
        expires_at=moment(key, "expires_at"),
        last_used_at=moment(key, "last_used_at"),
    )
