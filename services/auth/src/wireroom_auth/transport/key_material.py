"""KeyMaterialService."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from wireroom_auth.transport.messages import timestamp
from wireroom_auth.usecases.rotate_signing_key import RotateSigningKey
from wireroom_common.principal import current_principal
from wireroom_protos.auth.v1 import auth_pb2, auth_pb2_grpc


@dataclass(frozen=True)
class KeyMaterialServicer(auth_pb2_grpc.KeyMaterialServiceServicer):
    """KeyMaterialService."""

    rotate_signing_key: RotateSigningKey

    async def RotateSigningKey(  # noqa: N802
        self,
        request: auth_pb2.RotateSigningKeyRequest,  # noqa: ARG002
        context: Any,  # noqa: ARG002
    ) -> auth_pb2.RotateSigningKeyResponse:
        rotated = await self.rotate_signing_key.run(current_principal())
        return auth_pb2.RotateSigningKeyResponse(kid=rotated.kid, previous_until=timestamp(rotated.previous_until))
