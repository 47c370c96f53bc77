"""The methods of AuthService that have to do with sessions and the caller's own password."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from wireroom_auth.ports.second_factors import Challenge
from wireroom_auth.ports.sessions import SessionDetails
from wireroom_auth.transport.messages import timestamp, tokens_message, user_message
from wireroom_auth.usecases.change_password import ChangePassword, PasswordChange
from wireroom_auth.usecases.list_sessions import ListSessions
from wireroom_auth.usecases.login import Attempt, Login
from wireroom_auth.usecases.logout import Logout, LogoutAll, RevokeSession
from wireroom_auth.usecases.refresh import Refresh
from wireroom_auth.usecases.update_me import UpdateMe
from wireroom_common.principal import current_principal
from wireroom_protos.auth.v1 import auth_pb2


@dataclass(frozen=True)
class SessionUseCases:
    """What the methods hand on to."""

    login: Login
    refresh: Refresh
    logout: Logout
    logout_all: LogoutAll
    list_sessions: ListSessions
    revoke_session: RevokeSession
    change_password: ChangePassword
    update_me: UpdateMe


class SessionMethods:
    """To be mixed into the servicer."""

    sessions: SessionUseCases

    async def Login(self, request: auth_pb2.LoginRequest, context: Any) -> auth_pb2.LoginResponse:  # noqa: ARG002, N802
        proven, user = await self.sessions.login.run(
            Attempt(email=request.email, password=request.password, client_ip=request.client_ip, user_agent=request.user_agent)
        )
        if isinstance(proven, Challenge):
            return auth_pb2.LoginResponse(mfa_token=proven.mfa_token, mfa_expires_in=proven.expires_in)
        return auth_pb2.LoginResponse(tokens=tokens_message(proven), user=user_message(user, user.permissions))

    async def Refresh(self, request: auth_pb2.RefreshRequest, context: Any) -> auth_pb2.RefreshResponse:  # noqa: ARG002, N802
        tokens = await self.sessions.refresh.run(request.refresh_token, request.client_ip)
        return auth_pb2.RefreshResponse(tokens=tokens_message(tokens))

    async def Logout(self, request: auth_pb2.LogoutRequest, context: Any) -> auth_pb2.LogoutResponse:  # noqa: ARG002, N802
        await self.sessions.logout.run(current_principal())
        return auth_pb2.LogoutResponse()

    async def LogoutAll(self, request: auth_pb2.LogoutAllRequest, context: Any) -> auth_pb2.LogoutAllResponse:  # noqa: ARG002, N802
        return auth_pb2.LogoutAllResponse(sessions_ended=await self.sessions.logout_all.run(current_principal()))

    async def ListSessions(  # noqa: N802
        self,
        request: auth_pb2.ListSessionsRequest,
        context: Any,  # noqa: ARG002
    ) -> auth_pb2.ListSessionsResponse:
        page, next_page, current = await self.sessions.list_sessions.run(
            current_principal(), request.page_size, request.page_token
        )
        return auth_pb2.ListSessionsResponse(
            sessions=[_session_message(details, current=details.session.id == current) for details in page],
            next_page_token=next_page,
        )

    async def RevokeSession(  # noqa: N802
        self,
        request: auth_pb2.RevokeSessionRequest,
        context: Any,  # noqa: ARG002
    ) -> auth_pb2.RevokeSessionResponse:
        await self.sessions.revoke_session.run(current_principal(), request.id)
        return auth_pb2.RevokeSessionResponse()

    async def UpdateMe(self, request: auth_pb2.UpdateMeRequest, context: Any) -> auth_pb2.UpdateMeResponse:  # noqa: ARG002, N802
        name = request.name if request.HasField("name") else None
        user = await self.sessions.update_me.run(current_principal(), name)
        return auth_pb2.UpdateMeResponse(user=user_message(user, user.permissions))

    async def ChangePassword(  # noqa: N802
        self,
        request: auth_pb2.ChangePasswordRequest,
        context: Any,  # noqa: ARG002
    ) -> auth_pb2.ChangePasswordResponse:
        change = PasswordChange(request.current_password, request.new_password, request.client_ip)
        tokens = await self.sessions.change_password.run(current_principal(), change)
        return auth_pb2.ChangePasswordResponse(tokens=tokens_message(tokens))


def _session_message(details: SessionDetails, *, current: bool) -> auth_pb2.SessionInfo:
    return auth_pb2.SessionInfo(
        id=str(details.session.id),
        created_at=timestamp(details.session.created_at),
        last_used_at=timestamp(details.last_used_at),
        expires_at=timestamp(details.session.expires_at),
        client_ip=details.client.ip,
        user_agent=details.client.user_agent,
        current=current,
        methods=details.methods,
    )
