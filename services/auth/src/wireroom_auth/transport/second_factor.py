"""SecondFactorService."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from wireroom_auth.transport.messages import timestamp, tokens_message, user_message
from wireroom_auth.usecases.finish_login import FinishLogin
from wireroom_auth.usecases.login import client_of
from wireroom_auth.usecases.second_factor import ConfirmTotp, DisableTotp, EnrollTotp, GetSecondFactor
from wireroom_common.principal import current_principal
from wireroom_protos.auth.v1 import auth_pb2, auth_pb2_grpc


@dataclass(frozen=True)
class SecondFactorServicer(auth_pb2_grpc.SecondFactorServiceServicer):
    """Message → use case → message."""

    enroll: EnrollTotp
    confirm: ConfirmTotp
    disable: DisableTotp
    get: GetSecondFactor
    finish_login: FinishLogin

    async def EnrollTotp(self, request: auth_pb2.EnrollTotpRequest, context: Any) -> auth_pb2.EnrollTotpResponse:  # noqa: ARG002, N802
        uri, secret = await self.enroll.run(current_principal(), request.password)
        return auth_pb2.EnrollTotpResponse(uri=uri, secret=secret)

    async def ConfirmTotp(self, request: auth_pb2.ConfirmTotpRequest, context: Any) -> auth_pb2.ConfirmTotpResponse:  # noqa: ARG002, N802
        codes = await self.confirm.run(current_principal(), request.code)
        return auth_pb2.ConfirmTotpResponse(recovery_codes=codes)

    async def DisableTotp(self, request: auth_pb2.DisableTotpRequest, context: Any) -> auth_pb2.DisableTotpResponse:  # noqa: ARG002, N802
        await self.disable.run(current_principal(), request.password, request.code)
        return auth_pb2.DisableTotpResponse()

    async def GetSecondFactor(  # noqa: N802
        self,
        request: auth_pb2.GetSecondFactorRequest,  # noqa: ARG002
        context: Any,  # noqa: ARG002
    ) -> auth_pb2.GetSecondFactorResponse:
        state = await self.get.run(current_principal())
        return auth_pb2.GetSecondFactorResponse(
            totp=state.confirmed_at is not None,
            confirmed_at=timestamp(state.confirmed_at),
            recovery_codes_left=state.recovery_codes_left,
        )

    async def FinishLogin(self, request: auth_pb2.FinishLoginRequest, context: Any) -> auth_pb2.FinishLoginResponse:  # noqa: ARG002, N802
        client = client_of(request.client_ip, request.user_agent)
        tokens, user = await self.finish_login.run(request.mfa_token, request.code, client)
        return auth_pb2.FinishLoginResponse(tokens=tokens_message(tokens), user=user_message(user, user.permissions))
