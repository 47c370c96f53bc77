"""Bodies that several routes of `/auth` share, and how they are made of messages."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field

from wireroom_gateway.routes.fields import Output, moment
from wireroom_protos.auth.v1 import auth_pb2

MAX_USER_AGENT = 300
Secret = Annotated[str, Field(min_length=1, max_length=4_096, pattern=r"^[^\x00]*$")]


class UserOutput(Output):
    """An account."""

    id: str
    tenant_id: str
    email: str
    name: str
    roles: list[str]
    permissions: list[str]
    created_at: datetime | None
    email_verified_at: datetime | None
    second_factor: bool


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


class MfaRequiredOutput(Output):
    """Who it is was proven once; the login ends with a code at `/auth/login/mfa`. `mfa_expires_in` in seconds."""

    mfa_required: Literal[True] = True
    mfa_token: str
    mfa_expires_in: int


def login_output(answer: auth_pb2.LoginResponse | auth_pb2.FinishOidcResponse) -> LoginOutput | MfaRequiredOutput:
    """The end of a login, or of its first step."""
    if answer.mfa_token:
        return MfaRequiredOutput(mfa_token=answer.mfa_token, mfa_expires_in=answer.mfa_expires_in)
    return LoginOutput(**tokens_output(answer.tokens).model_dump(), user=user_output(answer.user))


def user_output(user: auth_pb2.User) -> UserOutput:
    """An account as it is told."""
    return UserOutput(
        id=user.id,
        tenant_id=user.tenant_id,
        email=user.email,
        name=user.name,
        roles=list(user.roles),
        permissions=list(user.permissions),
        created_at=moment(user, "created_at"),
        email_verified_at=moment(user, "email_verified_at"),
        second_factor=user.second_factor,
    )


def tokens_output(tokens: auth_pb2.Tokens) -> TokensOutput:
    """Tokens as they are told."""
    return TokensOutput(
        access_token=tokens.access_token,
        refresh_token=tokens.refresh_token,
        expires_in=tokens.expires_in,
        session_id=tokens.session_id,
    )
