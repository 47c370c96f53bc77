"""The caller's own account."""

from __future__ import annotations

from typing import Annotated

from fastapi import FastAPI, Request
from pydantic import Field

from wireroom_common.principal import current_principal
from wireroom_gateway.access import Bucket, Need, access
from wireroom_gateway.request_state import request_state
from wireroom_gateway.routes.application import problem_responses
from wireroom_gateway.routes.auth.messages import Secret, TokensOutput, UserOutput, tokens_output, user_output
from wireroom_gateway.routes.fields import Input, Line, Output
from wireroom_gateway.services import Services
from wireroom_protos.auth.v1 import auth_pb2


class RegisterInput(Input):
    """A new account. With an invitation its address must be the one that was invited."""

    email: Line
    password: Secret
    name: Annotated[str, Field(max_length=200, pattern=r"^[^\x00]*$")] = ""
    admin_token: Annotated[str, Field(max_length=200, pattern=r"^[^\x00]*$")] = ""
    invitation_token: Annotated[str, Field(max_length=200, pattern=r"^[^\x00]*$")] = ""


class UpdateMeInput(Input):
    """What is to change; what is left out stays."""

    name: Annotated[str, Field(max_length=200, pattern=r"^[^\x00]*$")] | None = None


class ChangePasswordInput(Input):
    """The present password and the one to come: at least 12 characters, and not among those that are guessed first."""

    current_password: Secret
    new_password: Secret


class PermissionsOutput(Output):
    """What the presented credential may do."""

    kind: str
    subject: str
    roles: list[str]
    permissions: list[str]


def add_account_routes(api: FastAPI, services: Services, *, timeout: float) -> None:
    """Register, and what one may know and change of oneself."""

    @api.post("/auth/register", status_code=201, tags=["auth"], responses=problem_responses(409, 415))
    @access(Need.NOTHING, bucket=Bucket.AUTH)
    async def register(body: RegisterInput) -> UserOutput:
        answer = await services.auth.Register(
            auth_pb2.RegisterRequest(
                email=body.email,
                password=body.password,
                name=body.name,
                admin_token=body.admin_token,
                invitation_token=body.invitation_token,
            ),
            timeout=timeout,
        )
        return user_output(answer.user)

    @api.get("/auth/me", tags=["auth"])
    @access(Need.SIGNED_IN)
    async def me() -> UserOutput:
        answer = await services.auth.GetMe(auth_pb2.GetMeRequest(), timeout=timeout)
        return user_output(answer.user)

    @api.patch("/auth/me", tags=["auth"], responses=problem_responses(415))
    @access(Need.SIGNED_IN)
    async def update_me(body: UpdateMeInput) -> UserOutput:
        answer = await services.auth.UpdateMe(auth_pb2.UpdateMeRequest(name=body.name), timeout=timeout)
        return user_output(answer.user)

    @api.post("/auth/password/change", tags=["auth"], responses=problem_responses(415))
    @access(Need.SIGNED_IN, bucket=Bucket.AUTH, secret_answer=True)
    async def change_password(body: ChangePasswordInput, request: Request) -> TokensOutput:
        answer = await services.auth.ChangePassword(
            auth_pb2.ChangePasswordRequest(
                current_password=body.current_password,
                new_password=body.new_password,
                client_ip=request_state(request.scope).client_ip,
            ),
            timeout=timeout,
        )
        return tokens_output(answer.tokens)

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
