"""The methods of AuthService that have to do with mail: resets of passwords, verification of addresses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from wireroom_auth.transport.messages import user_message
from wireroom_auth.usecases.password_reset import FinishReset, StartReset
from wireroom_auth.usecases.verify_email import SendVerification, VerifyEmail
from wireroom_common.principal import current_principal
from wireroom_protos.auth.v1 import auth_pb2


@dataclass(frozen=True)
class MailedTokenUseCases:
    """What the methods below call."""

    start_reset: StartReset
    finish_reset: FinishReset
    send_verification: SendVerification
    verify_email: VerifyEmail


class MailedTokenMethods:
    """Message → use case → message."""

    mailed_tokens: MailedTokenUseCases

    async def StartReset(self, request: auth_pb2.StartResetRequest, context: Any) -> auth_pb2.StartResetResponse:  # noqa: ARG002, N802
        await self.mailed_tokens.start_reset.run(request.email, request.client_ip)
        return auth_pb2.StartResetResponse()

    async def FinishReset(self, request: auth_pb2.FinishResetRequest, context: Any) -> auth_pb2.FinishResetResponse:  # noqa: ARG002, N802
        await self.mailed_tokens.finish_reset.run(request.token, request.new_password)
        return auth_pb2.FinishResetResponse()

    async def SendVerification(  # noqa: N802
        self,
        request: auth_pb2.SendVerificationRequest,  # noqa: ARG002
        context: Any,  # noqa: ARG002
    ) -> auth_pb2.SendVerificationResponse:
        await self.mailed_tokens.send_verification.run(current_principal())
        return auth_pb2.SendVerificationResponse()

    async def VerifyEmail(self, request: auth_pb2.VerifyEmailRequest, context: Any) -> auth_pb2.VerifyEmailResponse:  # noqa: ARG002, N802
        user = await self.mailed_tokens.verify_email.run(request.token)
        return auth_pb2.VerifyEmailResponse(user=user_message(user, user.permissions))
