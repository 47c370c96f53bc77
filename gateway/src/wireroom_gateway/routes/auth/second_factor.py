"""The second factor: switching it on and off, and the second step of a login."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from fastapi import FastAPI, Request, Response
from pydantic import Field

from wireroom_gateway.access import Bucket, Need, access
from wireroom_gateway.request_state import request_state
from wireroom_gateway.routes.application import problem_responses
from wireroom_gateway.routes.auth.messages import MAX_USER_AGENT, LoginOutput, Secret, tokens_output, user_output
from wireroom_gateway.routes.fields import Input, Output, moment
from wireroom_gateway.services import Services
from wireroom_protos.auth.v1 import auth_pb2

Code = Annotated[str, Field(min_length=6, max_length=40, pattern=r"^[^\x00]*$", description="A TOTP code or a recovery code")]


class EnrollInput(Input):
    """The password, asked for again."""

    password: Secret


class EnrollOutput(Output):
    """What an authenticator needs: `uri` as QR code, or `secret` (base32) to type in. Shown this once."""

    uri: str
    secret: str


class VerifyInput(Input):
    """A code that the authenticator shows."""

    code: Code


class RecoveryCodesOutput(Output):
    """Each stands in for the authenticator once. Shown this once."""

    recovery_codes: list[str]


class DisableInput(Input):
    """Both factors."""

    password: Secret
    code: Code


class SecondFactorOutput(Output):
    """What the caller has."""

    totp: bool
    confirmed_at: datetime | None
    recovery_codes_left: int


class FinishLoginInput(Input):
    """`mfa_token` as the first step answered."""

    mfa_token: Secret
    code: Code


def add_second_factor_routes(api: FastAPI, services: Services, *, timeout: float) -> None:
    """`/auth/mfa` and `/auth/login/mfa`."""

    @api.get("/auth/mfa", tags=["auth"])
    @access(Need.SIGNED_IN)
    async def second_factor() -> SecondFactorOutput:
        answer = await services.second_factors.GetSecondFactor(auth_pb2.GetSecondFactorRequest(), timeout=timeout)
        return SecondFactorOutput(
            totp=answer.totp, confirmed_at=moment(answer, "confirmed_at"), recovery_codes_left=answer.recovery_codes_left
        )

    @api.post("/auth/mfa/totp/enroll", tags=["auth"], responses=problem_responses(409, 415))
    @access(Need.SIGNED_IN, bucket=Bucket.AUTH, secret_answer=True)
    async def enroll_totp(body: EnrollInput) -> EnrollOutput:
        answer = await services.second_factors.EnrollTotp(auth_pb2.EnrollTotpRequest(password=body.password), timeout=timeout)
        return EnrollOutput(uri=answer.uri, secret=answer.secret)

    @api.post("/auth/mfa/totp/verify", tags=["auth"], responses=problem_responses(409, 415))
    @access(Need.SIGNED_IN, bucket=Bucket.AUTH, secret_answer=True)
    async def verify_totp(body: VerifyInput) -> RecoveryCodesOutput:
        answer = await services.second_factors.ConfirmTotp(auth_pb2.ConfirmTotpRequest(code=body.code), timeout=timeout)
        return RecoveryCodesOutput(recovery_codes=list(answer.recovery_codes))

    @api.post("/auth/mfa/totp/disable", status_code=204, tags=["auth"], responses=problem_responses(409, 415))
    @access(Need.SIGNED_IN, bucket=Bucket.AUTH)
    async def disable_totp(body: DisableInput) -> Response:
        request = auth_pb2.DisableTotpRequest(password=body.password, code=body.code)
        await services.second_factors.DisableTotp(request, timeout=timeout)
        return Response(status_code=204)

    @api.post("/auth/login/mfa", tags=["auth"], responses=problem_responses(415))
    @access(Need.NOTHING, bucket=Bucket.AUTH, secret_answer=True)
    async def finish_login(body: FinishLoginInput, request: Request) -> LoginOutput:
        answer = await services.second_factors.FinishLogin(
            auth_pb2.FinishLoginRequest(
                mfa_token=body.mfa_token,
                code=body.code,
                client_ip=request_state(request.scope).client_ip,
                user_agent=request.headers.get("user-agent", "")[:MAX_USER_AGENT],
            ),
            timeout=timeout,
        )
        return LoginOutput(**tokens_output(answer.tokens).model_dump(), user=user_output(answer.user))
