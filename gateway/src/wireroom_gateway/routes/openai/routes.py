"""All routes below /v1 that talk to models."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from starlette.routing import Route

from wireroom_gateway.routes.answering import Waiting
from wireroom_gateway.routes.openai import compatibility, completions, responses
from wireroom_gateway.routes.openai.models import add_model_routes
from wireroom_gateway.services import Services

OPENAPI: dict[str, Any] = {**completions.OPENAPI, **responses.OPENAPI, **compatibility.OPENAPI}


def add_openai_routes(api: FastAPI, services: Services, waiting: Waiting, *, timeout: float) -> None:
    """`timeout`: seconds for what needs no model. To be called first: routes are tried in order, and this is the hot one."""
    chat = completions.ChatCompletions(services.inference, services.streams, waiting)
    api.router.routes.append(Route(completions.PATH, chat, methods=["POST"]))
    responses.add_response_routes(api, services.responses, services.streams, waiting, timeout=timeout)
    compatibility.add_compatibility_routes(api, services.compatibility, services.streams, waiting)
    add_model_routes(api, services, timeout=timeout)
