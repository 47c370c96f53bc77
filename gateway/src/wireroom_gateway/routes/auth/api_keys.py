"""API keys."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from fastapi import FastAPI, Response
from pydantic import Field

from wireroom_gateway.access import access
from wireroom_gateway.routes.application import problem_responses
from wireroom_gateway.routes.fields import Input, Line, Output, PageSize, PageToken, moment
from wireroom_gateway.services import Services
from wireroom_protos.auth.v1 import auth_pb2

Micros = Annotated[int, Field(ge=0, le=10**15, description="Millionths of the installation's currency; 0 for none")]
Limits = dict[Literal["chat", "api", "news", "upload", "auth"], Annotated[int, Field(ge=1, le=1_000_000)]]


class CreateKeyInput(Input):
    """A new API key: `permissions` empty for all of the owner's, `ttl_seconds` 0 for no expiry."""

    name: Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00]*$")]
    permissions: Annotated[list[Line], Field(max_length=100, default_factory=list)]
    ttl_seconds: Annotated[int, Field(ge=0, le=10 * 366 * 86_400)] = 0
    limits: Annotated[Limits, Field(description="Requests per minute by bucket", default_factory=dict)]
    budget_day_micros: Micros = 0
    budget_month_micros: Micros = 0
    signature_required: bool = False


class UpdateKeyInput(Input):
    """What is to change; what is left out stays."""

    name: Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00]*$")] | None = None
    permissions: Annotated[list[Line], Field(max_length=100)] | None = None
    limits: Limits | None = None
    budget_day_micros: Micros | None = None
    budget_month_micros: Micros | None = None


class RotateKeyInput(Input):
    """For how long the old secret stays valid: a day by default, 0 ends it now."""

    overlap_seconds: Annotated[int, Field(ge=0, le=30 * 86_400)] = 86_400


class KeyOutput(Output):
    """An API key without its secret."""

    id: str
    name: str
    prefix: str
    permissions: list[str]
    owner_id: str
    created_at: datetime | None
    expires_at: datetime | None
    last_used_at: datetime | None
    limits: dict[str, int]
    budget_day_micros: int
    budget_month_micros: int
    signature_required: bool
    previous_secret_until: datetime | None


class CreatedKeyOutput(KeyOutput):
    """An API key with its secret, which is shown this once; for a key whose requests are signed, the signing secret instead."""

    secret: str | None
    signing_secret: str | None


class KeysOutput(Output):
    """A page of API keys."""

    keys: list[KeyOutput]
    next_page_token: str


def add_api_key_routes(api: FastAPI, services: Services, *, timeout: float) -> None:
    """Make, list and end API keys."""

    @api.post("/auth/api-keys", status_code=201, tags=["auth"], responses=problem_responses(415))
    @access("apikeys:manage:own", secret_answer=True)
    async def create_key(body: CreateKeyInput) -> CreatedKeyOutput:
        answer = await services.api_keys.CreateKey(
            auth_pb2.CreateKeyRequest(
                name=body.name,
                permissions=body.permissions,
                ttl_seconds=body.ttl_seconds,
                limits={str(bucket): quota for bucket, quota in body.limits.items()},
                budget_day_micros=body.budget_day_micros,
                budget_month_micros=body.budget_month_micros,
                signature_required=body.signature_required,
            ),
            timeout=timeout,
        )
        return _with_secrets(answer)

    @api.get("/auth/api-keys", tags=["auth"])
    @access("apikeys:manage:own")
    async def list_keys(page_size: PageSize = 50, page_token: PageToken = "") -> KeysOutput:
        answer = await services.api_keys.ListKeys(
            auth_pb2.ListKeysRequest(page_size=page_size, page_token=page_token), timeout=timeout
        )
        return KeysOutput(keys=[_key(key) for key in answer.keys], next_page_token=answer.next_page_token)

    @api.get("/auth/api-keys/{id}", tags=["auth"], responses=problem_responses(404))
    @access("apikeys:manage:own")
    async def get_key(id: str) -> KeyOutput:  # noqa: A002 - the path's name for it
        answer = await services.api_keys.GetKey(auth_pb2.GetKeyRequest(id=id), timeout=timeout)
        return _key(answer.key)

    @api.patch("/auth/api-keys/{id}", tags=["auth"], responses=problem_responses(404, 415))
    @access("apikeys:manage:own")
    async def update_key(id: str, body: UpdateKeyInput) -> KeyOutput:  # noqa: A002 - the path's name for it
        limits = {str(bucket): quota for bucket, quota in body.limits.items()} if body.limits is not None else None
        answer = await services.api_keys.UpdateKey(
            auth_pb2.UpdateKeyRequest(
                id=id,
                name=body.name,
                permissions=auth_pb2.PermissionNames(names=body.permissions) if body.permissions is not None else None,
                limits=auth_pb2.KeyLimits(limits=limits) if limits is not None else None,
                budget_day_micros=body.budget_day_micros,
                budget_month_micros=body.budget_month_micros,
            ),
            timeout=timeout,
        )
        return _key(answer.key)

    @api.post("/auth/api-keys/{id}/rotate", tags=["auth"], responses=problem_responses(404, 409, 415))
    @access("apikeys:manage:own", secret_answer=True)
    async def rotate_key(id: str, body: RotateKeyInput) -> CreatedKeyOutput:  # noqa: A002 - the path's name for it
        answer = await services.api_keys.RotateKey(
            auth_pb2.RotateKeyRequest(id=id, overlap_seconds=body.overlap_seconds), timeout=timeout
        )
        return _with_secrets(answer)

    @api.delete("/auth/api-keys/{id}", status_code=204, tags=["auth"], responses=problem_responses(404))
    @access("apikeys:manage:own")
    async def revoke_key(id: str) -> Response:  # noqa: A002 - the path's name for it
        await services.api_keys.RevokeKey(auth_pb2.RevokeKeyRequest(id=id), timeout=timeout)
        return Response(status_code=204)


def _with_secrets(answer: auth_pb2.CreateKeyResponse | auth_pb2.RotateKeyResponse) -> CreatedKeyOutput:
    return CreatedKeyOutput(
        **_key(answer.key).model_dump(), secret=answer.secret or None, signing_secret=answer.signing_secret or None
    )


def _key(key: auth_pb2.ApiKey) -> KeyOutput:
    return KeyOutput(
        id=key.id,
        name=key.name,
        prefix=key.prefix,
        permissions=list(key.permissions),
        owner_id=key.owner_id,
        created_at=moment(key, "created_at"),
        expires_at=moment(key, "expires_at"),
        last_used_at=moment(key, "last_used_at"),
        limits=dict(key.limits),
        budget_day_micros=key.budget_day_micros,
        budget_month_micros=key.budget_month_micros,
        signature_required=key.signature_required,
        previous_secret_until=moment(key, "previous_secret_until"),
    )
