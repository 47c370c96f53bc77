"""The tenants of the installation, for its operators. What a tenant holds is not theirs to see."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from fastapi import FastAPI
from pydantic import Field

from wireroom_gateway.access import access
from wireroom_gateway.routes.admin.invitations import (
    CreatedInvitationOutput,
    CreateInvitationInput,
    created_invitation,
    invitation_request,
)
from wireroom_gateway.routes.application import problem_responses
from wireroom_gateway.routes.fields import Input, Output, PageSize, PageToken, moment
from wireroom_gateway.services import Services
from wireroom_protos.auth.v1 import auth_pb2

_MANAGE = "tenants:manage"
_Name = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00]*$")]


class CreateTenantInput(Input):
    """A new tenant; its first Admin is invited at `/api/v1/admin/tenants/{id}/invitations`."""

    name: _Name


class UpdateTenantInput(Input):
    """What is to change; what is left out stays. Nobody can sign in to a disabled tenant, and none of its keys work."""

    name: _Name | None = None
    disabled: bool | None = None


class TenantOutput(Output):
    """A tenant."""

    id: str
    name: str
    created_at: datetime | None
    disabled_at: datetime | None


class TenantsOutput(Output):
    """A page of tenants, newest first."""

    tenants: list[TenantOutput]
    next_page_token: str


def add_tenant_routes(api: FastAPI, services: Services, *, timeout: float) -> None:
    """`/api/v1/admin/tenants`."""

    @api.post("/api/v1/admin/tenants", status_code=201, tags=["administration"], responses=problem_responses(409, 415))
    @access(_MANAGE)
    async def create_tenant(body: CreateTenantInput) -> TenantOutput:
        answer = await services.directory.CreateTenant(auth_pb2.CreateTenantRequest(name=body.name), timeout=timeout)
        return _tenant(answer.tenant)

    @api.get("/api/v1/admin/tenants", tags=["administration"])
    @access(_MANAGE)
    async def list_tenants(page_size: PageSize = 50, page_token: PageToken = "") -> TenantsOutput:
        answer = await services.directory.ListTenants(
            auth_pb2.ListTenantsRequest(page_size=page_size, page_token=page_token), timeout=timeout
        )
        return TenantsOutput(tenants=[_tenant(tenant) for tenant in answer.tenants], next_page_token=answer.next_page_token)

    @api.patch("/api/v1/admin/tenants/{id}", tags=["administration"], responses=problem_responses(404, 409, 415))
    @access(_MANAGE)
    async def update_tenant(id: str, body: UpdateTenantInput) -> TenantOutput:  # noqa: A002 - the path's name for it
        request = auth_pb2.UpdateTenantRequest(id=id, name=body.name, disabled=body.disabled)
        return _tenant((await services.directory.UpdateTenant(request, timeout=timeout)).tenant)

    @api.post(
        "/api/v1/admin/tenants/{id}/invitations",
        status_code=201,
        tags=["administration"],
        responses=problem_responses(404, 409, 415),
    )
    @access(_MANAGE, secret_answer=True)
    async def invite_first_admin(id: str, body: CreateInvitationInput) -> CreatedInvitationOutput:  # noqa: A002 - the path's name for it
        request = invitation_request(body, tenant_id=id)
        return created_invitation(await services.directory.CreateInvitation(request, timeout=timeout))


def _tenant(tenant: auth_pb2.Tenant) -> TenantOutput:
    return TenantOutput(
        id=tenant.id,
        name=tenant.name,
        created_at=moment(tenant, "created_at"),
        disabled_at=moment(tenant, "disabled_at"),
    )
