"""The built-in roles and the custom ones of the caller's tenant."""

from __future__ import annotations

from typing import Annotated

from fastapi import FastAPI, Response
from pydantic import Field

from wireroom_gateway.access import access
from wireroom_gateway.routes.application import problem_responses
from wireroom_gateway.routes.fields import Input, Line, Output
from wireroom_gateway.services import Services
from wireroom_protos.auth.v1 import auth_pb2

_MANAGE = "roles:manage"


class PutRoleInput(Input):
    """What the role gives. Narrow permissions that come with a wide one are added."""

    permissions: Annotated[list[Line], Field(min_length=1, max_length=100)]


class RoleOutput(Output):
    """A role; built-in ones come with the software and cannot be changed."""

    name: str
    permissions: list[str]
    built_in: bool


class RolesOutput(Output):
    """All roles that the tenant knows."""

    roles: list[RoleOutput]


def add_role_routes(api: FastAPI, services: Services, *, timeout: float) -> None:
    """`/api/v1/admin/roles`."""

    @api.get("/api/v1/admin/roles", tags=["administration"])
    @access(_MANAGE)
    async def list_roles() -> RolesOutput:
        answer = await services.directory.ListRoles(auth_pb2.ListRolesRequest(), timeout=timeout)
        return RolesOutput(roles=[_role(role) for role in answer.roles])

    @api.put("/api/v1/admin/roles/{name}", tags=["administration"], responses=problem_responses(409, 415))
    @access(_MANAGE)
    async def put_role(name: str, body: PutRoleInput) -> RoleOutput:
        request = auth_pb2.PutRoleRequest(name=name, permissions=body.permissions)
        return _role((await services.directory.PutRole(request, timeout=timeout)).role)

    @api.delete("/api/v1/admin/roles/{name}", status_code=204, tags=["administration"], responses=problem_responses(404, 409))
    @access(_MANAGE)
    async def delete_role(name: str) -> Response:
        await services.directory.DeleteRole(auth_pb2.DeleteRoleRequest(name=name), timeout=timeout)
        return Response(status_code=204)


def _role(role: auth_pb2.Role) -> RoleOutput:
    return RoleOutput(name=role.name, permissions=list(role.permissions), built_in=role.built_in)
