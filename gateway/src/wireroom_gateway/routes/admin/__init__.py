"""`/api/v1/admin`: users, invitations, roles and tenants."""

from __future__ import annotations

from fastapi import FastAPI

from wireroom_gateway.routes.admin.invitations import add_invitation_routes
from wireroom_gateway.routes.admin.roles import add_role_routes
from wireroom_gateway.routes.admin.tenants import add_tenant_routes
from wireroom_gateway.routes.admin.users import add_user_routes
from wireroom_gateway.services import Services


def add_admin_routes(api: FastAPI, services: Services, *, timeout: float) -> None:
    """All of them."""
    add_user_routes(api, services, timeout=timeout)
    add_invitation_routes(api, services, timeout=timeout)
    add_role_routes(api, services, timeout=timeout)
    add_tenant_routes(api, services, timeout=timeout)
