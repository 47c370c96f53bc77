"""`/auth/*`: one module per concept."""

from __future__ import annotations

from fastapi import FastAPI

from wireroom_gateway.routes.auth.account import add_account_routes
from wireroom_gateway.routes.auth.api_keys import add_api_key_routes
from wireroom_gateway.routes.auth.password_reset import add_password_reset_routes
from wireroom_gateway.routes.auth.second_factor import add_second_factor_routes
from wireroom_gateway.routes.auth.sessions import add_session_routes
from wireroom_gateway.routes.auth.token import add_token_route
from wireroom_gateway.services import Services


def add_auth_routes(api: FastAPI, services: Services, *, timeout: float) -> None:
    """All of `/auth/*`."""
    add_session_routes(api, services, timeout=timeout)
    add_account_routes(api, services, timeout=timeout)
    add_api_key_routes(api, services, timeout=timeout)
    add_token_route(api, services, timeout=timeout)
    add_second_factor_routes(api, services, timeout=timeout)
    add_password_reset_routes(api, services, timeout=timeout)
