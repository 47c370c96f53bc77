"""What is done by mail: setting a forgotten password, verifying an address; and the page that links in mails lead to."""

from __future__ import annotations

from importlib.resources import files

from fastapi import FastAPI, Request, Response

from wireroom_gateway.access import Bucket, Need, access
from wireroom_gateway.request_state import request_state
from wireroom_gateway.routes.application import problem_responses
from wireroom_gateway.routes.auth.messages import Secret, UserOutput, user_output
from wireroom_gateway.routes.fields import Input, Line, Output
from wireroom_gateway.services import Services
from wireroom_protos.auth.v1 import auth_pb2

# The page runs its one script and talks to this origin; nothing else.
_PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none';"
    " frame-ancestors 'none'"
)


class ForgotInput(Input):
    """Whose password is forgotten."""

    email: Line


class AcceptedOutput(Output):
    """The same for every address."""

    detail: str = "If there is an account with this address, a mail is on its way."


class ResetInput(Input):
    """`token` from the mail."""

    token: Secret
    new_password: Secret


class VerifyEmailInput(Input):
    """`token` from the mail."""

    token: Secret


def add_password_reset_routes(api: FastAPI, services: Services, *, timeout: float) -> None:
    """`/auth/password/forgot|reset`, `/auth/email/*`, `/auth/link`."""

    @api.post("/auth/password/forgot", status_code=202, tags=["auth"], responses=problem_responses(409, 415))
    @access(Need.NOTHING, bucket=Bucket.AUTH)
    async def forgot_password(body: ForgotInput, request: Request) -> AcceptedOutput:
        client_ip = request_state(request.scope).client_ip
        await services.auth.StartReset(auth_pb2.StartResetRequest(email=body.email, client_ip=client_ip), timeout=timeout)
        return AcceptedOutput()

    @api.post("/auth/password/reset", status_code=204, tags=["auth"], responses=problem_responses(415))
    @access(Need.NOTHING, bucket=Bucket.AUTH)
    async def reset_password(body: ResetInput) -> Response:
        message = auth_pb2.FinishResetRequest(token=body.token, new_password=body.new_password)
        await services.auth.FinishReset(message, timeout=timeout)
        return Response(status_code=204)

    @api.post("/auth/email/verification", status_code=202, tags=["auth"], responses=problem_responses(409))
    @access(Need.SIGNED_IN, bucket=Bucket.AUTH)
    async def send_verification() -> AcceptedOutput:
        await services.auth.SendVerification(auth_pb2.SendVerificationRequest(), timeout=timeout)
        return AcceptedOutput(detail="A mail is on its way.")

    @api.post("/auth/email/verify", tags=["auth"], responses=problem_responses(415))
    @access(Need.NOTHING, bucket=Bucket.AUTH)
    async def verify_email(body: VerifyEmailInput) -> UserOutput:
        answer = await services.auth.VerifyEmail(auth_pb2.VerifyEmailRequest(token=body.token), timeout=timeout)
        return user_output(answer.user)

    page, script, style = ((files(__package__) / "link" / name).read_bytes() for name in ("link.html", "link.js", "link.css"))

    @api.get("/auth/link", tags=["auth"], response_class=Response)
    @access(Need.NOTHING)
    async def link_page() -> Response:
        """Where links in mails lead. Their token stands in the fragment, which browsers do not send; the page posts it."""
        return Response(page, media_type="text/html", headers={"content-security-policy": _PAGE_POLICY})

    @api.get("/auth/link.js", tags=["auth"], response_class=Response)
    @access(Need.NOTHING)
    async def link_script() -> Response:
        return Response(script, media_type="text/javascript")

    @api.get("/auth/link.css", tags=["auth"], response_class=Response)
    @access(Need.NOTHING)
    async def link_style() -> Response:
        return Response(style, media_type="text/css")
