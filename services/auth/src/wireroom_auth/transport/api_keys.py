"""ApiKeyService."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from wireroom_auth.domain.api_keys import KeySecrets
from wireroom_auth.transport.messages import key_message, timestamp
from wireroom_auth.usecases.create_key import CreateKey, KeyRequest
from wireroom_auth.usecases.get_key import GetKey
from wireroom_auth.usecases.list_keys import ListKeys
from wireroom_auth.usecases.revoke_key import RevokeKey
from wireroom_auth.usecases.rotate_key import RotateKey
from wireroom_auth.usecases.update_key import KeyChange, UpdateKey
from wireroom_auth.usecases.verify_key import VerifyKey
from wireroom_common.clock import Clock
from wireroom_common.principal import current_principal
from wireroom_protos.auth.v1 import auth_pb2, auth_pb2_grpc


@dataclass(frozen=True)
class ApiKeyServicer(auth_pb2_grpc.ApiKeyServiceServicer):
    """ApiKeyService."""

    create_key: CreateKey
    list_keys: ListKeys
    get_key: GetKey
    update_key: UpdateKey
    rotate_key: RotateKey
    revoke_key: RevokeKey
    verify_key: VerifyKey
    clock: Clock

    async def CreateKey(self, request: auth_pb2.CreateKeyRequest, context: Any) -> auth_pb2.CreateKeyResponse:  # noqa: ARG002, N802
        key, secrets = await self.create_key.run(
            current_principal(),
            KeyRequest(
                name=request.name,
                permissions=tuple(request.permissions),
                ttl_seconds=request.ttl_seconds,
                limits=dict(request.limits),
                budget_day_micros=request.budget_day_micros,
                budget_month_micros=request.budget_month_micros,
                signature_required=request.signature_required,
            ),
        )
        return auth_pb2.CreateKeyResponse(key=key_message(key, self.clock.now()), **_shown(secrets))

    async def ListKeys(self, request: auth_pb2.ListKeysRequest, context: Any) -> auth_pb2.ListKeysResponse:  # noqa: ARG002, N802
        keys, next_page = await self.list_keys.run(current_principal(), request.page_size, request.page_token)
        now = self.clock.now()
        return auth_pb2.ListKeysResponse(keys=[key_message(key, now) for key in keys], next_page_token=next_page)

    async def GetKey(self, request: auth_pb2.GetKeyRequest, context: Any) -> auth_pb2.GetKeyResponse:  # noqa: ARG002, N802
        key = await self.get_key.run(current_principal(), request.id)
        return auth_pb2.GetKeyResponse(key=key_message(key, self.clock.now()))

    async def UpdateKey(self, request: auth_pb2.UpdateKeyRequest, context: Any) -> auth_pb2.UpdateKeyResponse:  # noqa: ARG002, N802
        change = KeyChange(
            name=request.name if request.HasField("name") else None,
            permissions=tuple(request.permissions.names) if request.HasField("permissions") else None,
            limits=dict(request.limits.limits) if request.HasField("limits") else None,
            budget_day_micros=request.budget_day_micros if request.HasField("budget_day_micros") else None,
            budget_month_micros=request.budget_month_micros if request.HasField("budget_month_micros") else None,
        )
        key = await self.update_key.run(current_principal(), request.id, change)
        return auth_pb2.UpdateKeyResponse(key=key_message(key, self.clock.now()))

    async def RotateKey(self, request: auth_pb2.RotateKeyRequest, context: Any) -> auth_pb2.RotateKeyResponse:  # noqa: ARG002, N802
        overlap = request.overlap_seconds if request.HasField("overlap_seconds") else None
        key, secrets = await self.rotate_key.run(current_principal(), request.id, overlap)
        return auth_pb2.RotateKeyResponse(key=key_message(key, self.clock.now()), **_shown(secrets))

    async def RevokeKey(self, request: auth_pb2.RevokeKeyRequest, context: Any) -> auth_pb2.RevokeKeyResponse:  # noqa: ARG002, N802
        await self.revoke_key.run(current_principal(), request.id)
        return auth_pb2.RevokeKeyResponse()

    async def VerifyKey(self, request: auth_pb2.VerifyKeyRequest, context: Any) -> auth_pb2.VerifyKeyResponse:  # noqa: ARG002, N802
        by_id = bool(request.key_id)
        owned, permissions = (
            await self.verify_key.by_id(current_principal(), request.key_id)
            if by_id
            else await self.verify_key.by_secret(request.secret)
        )
        key, owner = owned.key, owned.owner
        ends = [end for end in (key.expires_at, owned.until) if end is not None]
        answer = auth_pb2.VerifyKeyResponse(
            key_id=str(key.id),
            tenant_id=str(key.tenant_id),
            user_id=str(owner.id),
            roles=sorted(owner.roles),
            permissions=sorted(permissions),
            expires_at=timestamp(min(ends)) if ends else None,
            epoch=owner.epoch,
            tenant_epoch=owner.tenant_epoch,
            limits=dict(key.limits),
            signature_required=key.signature_required,
        )
        if by_id:
            answer.signing_secret = owned.signing_secret
            if owned.previous_signing_secret and key.previous_until is not None:
                answer.previous_signing_secret = owned.previous_signing_secret
                answer.previous_until.FromDatetime(key.previous_until)
        return answer


def _shown(secrets: KeySecrets) -> dict[str, str]:
    """Of a key that signs, the secret itself is of no use to anybody."""
    if secrets.signing_secret:
        return {"signing_secret": secrets.signing_secret}
    return {"secret": secrets.secret}
