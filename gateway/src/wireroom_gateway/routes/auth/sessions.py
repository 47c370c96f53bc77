"""Sessions: login, refresh, logout, and which there are."""

from __future__ import annotations

from datetime import datetime

from fastapi import FastAPI, Request, Response

from wireroom_gateway.access import Bucket, Need, access
from wireroom_gateway.request_state import request_state
from wireroom_gateway.routes.application import problem_responses
from wireroom_gateway.routes.auth.messages import (
    MAX_USER_AGENT,
    LoginOutput,
    MfaRequiredOutput,
    Secret,
    TokensOutput,
    login_output,
    tokens_output,
)
from wireroom_gateway.routes.fields import Input, Line, Output, PageSize, PageToken, moment
from wireroom_gateway.services import Services
from wireroom_protos.auth.v1 import auth_pb2


class LoginInput(Input):
    """Credentials."""

    email: Line
    password: Secret


class RefreshInput(Input):
    """A refresh token; it is spent by this."""

    refresh_token: Secret


class SessionOutput(Output):
    """A login that has not ended. `methods`: "password", "totp", "recovery_code", "oidc:<provider>"."""

    id: str
    created_at: datetime | None
    last_used_at: datetime | None
    expires_at: datetime | None
    client_ip: str
    user_agent: str
    current: bool
    methods: list[str]


class SessionsOutput(Output):
    """A page of sessions."""

    sessions: list[SessionOutput]
    next_page_token: str


class LogoutAllOutput(Output):
    """How many sessions ended."""

    sessions_ended: int


def add_session_routes(api: FastAPI, services: Services, *, timeout: float) -> None:
    """Sign in, stay signed in, sign out."""

    @api.post("/auth/login", tags=["auth"], responses=problem_responses(415))
    @access(Need.NOTHING, bucket=Bucket.AUTH, secret_answer=True)
    async def login(body: LoginInput, request: Request) -> LoginOutput | MfaRequiredOutput:
        answer = await services.auth.Login(
            auth_pb2.LoginRequest(
                email=body.email,
                password=body.password,
                client_ip=request_state(request.scope).client_ip,
                user_agent=request.headers.get("user-agent", "")[:MAX_USER_AGENT],
            ),
            timeout=timeout,
        )
        return login_output(answer)

    @api.post("/auth/refresh", tags=["auth"], responses=problem_responses(415))
    @access(Need.NOTHING, secret_answer=True, credential_in_body=True)
    async def refresh(body: RefreshInput, request: Request) -> TokensOutput:
        answer = await services.auth.Refresh(
            auth_pb2.RefreshRequest(refresh_token=body.refresh_token, client_ip=request_state(request.scope).client_ip),
            timeout=timeout,
        )
        return tokens_output(answer.tokens)

    @api.post("/auth/logout", status_code=204, tags=["auth"])
    @access(Need.SIGNED_IN)
    async def logout() -> Response:
        await services.auth.Logout(auth_pb2.LogoutRequest(), timeout=timeout)
        return Response(status_code=204)

    @api.post("/auth/logout-all", tags=["auth"])
    @access(Need.SIGNED_IN)
    async def logout_all() -> LogoutAllOutput:
        answer = await services.auth.LogoutAll(auth_pb2.LogoutAllRequest(), timeout=timeout)
        return LogoutAllOutput(sessions_ended=answer.sessions_ended)

    @api.get("/auth/sessions", tags=["auth"])
    @access(Need.SIGNED_IN)
    async def list_sessions(page_size: PageSize = 50, page_token: PageToken = "") -> SessionsOutput:
        answer = await services.auth.ListSessions(
            auth_pb2.ListSessionsRequest(page_size=page_size, page_token=page_token), timeout=timeout
        )
        return SessionsOutput(sessions=[_session(session) for session in answer.sessions], next_page_token=answer.next_page_token)

    @api.delete("/auth/sessions/{id}", status_code=204, tags=["auth"], responses=problem_responses(404))
    @access(Need.SIGNED_IN)
    async def revoke_session(id: str) -> Response:  # noqa: A002 - the path's name for it
        await services.auth.RevokeSession(auth_pb2.RevokeSessionRequest(id=id), timeout=timeout)
        return Response(status_code=204)


def _session(session: auth_pb2.SessionInfo) -> SessionOutput:
    return SessionOutput(
        id=session.id,
        created_at=moment(session, "created_at"),
        last_used_at=moment(session, "last_used_at"),
        expires_at=moment(session, "expires_at"),
        client_ip=session.client_ip,
        user_agent=session.user_agent,
        current=session.current,
        methods=list(session.methods),
    )
