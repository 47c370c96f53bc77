"""The keys that sign access tokens."""

from __future__ import annotations

from datetime import datetime

from fastapi import FastAPI

from wireroom_gateway.access import access
from wireroom_gateway.routes.application import problem_responses
from wireroom_gateway.routes.fields import Output, moment
from wireroom_gateway.services import Services
from wireroom_protos.auth.v1 import auth_pb2


class RotatedSigningKeyOutput(Output):
    """The key that signs from now on; its predecessor stays published until `previous_until`."""

    kid: str
    previous_until: datetime | None


def add_signing_key_routes(api: FastAPI, services: Services, *, timeout: float) -> None:
    """`/api/v1/admin/signing-keys`."""

    @api.post("/api/v1/admin/signing-keys/rotate", tags=["administration"], responses=problem_responses(409))
    @access("config:manage")
    async def rotate_signing_key() -> RotatedSigningKeyOutput:
        answer = await services.key_material.RotateSigningKey(auth_pb2.RotateSigningKeyRequest(), timeout=timeout)
        return RotatedSigningKeyOutput(kid=answer.kid, previous_until=moment(answer, "previous_until"))
