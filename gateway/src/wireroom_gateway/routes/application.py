"""The FastAPI application, with those of its defaults replaced that do not hold against hostile input."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from wireroom_common.errors import FieldProblem, WireroomError
from wireroom_gateway import strict_json
from wireroom_gateway.pipeline.errors import CLIENT_GONE
from wireroom_gateway.problems import http_problem, render

_MAX_PROBLEMS = 20
_MAX_TEXT = 200

PROBLEM_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["type", "title", "status", "detail", "code", "request_id", "errors"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "code": {"type": "string"},
        "request_id": {"type": "string"},
        "errors": {
            "type": "array",
            "items": {"type": "object", "properties": {"field": {"type": "string"}, "message": {"type": "string"}}},
        },
    },
}
OPENAI_ERROR_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": "string"},
            },
        }
    },
}
_COMMON = {
    400: "The request is malformed or refused as invalid",
    401: "No credential, or one that is not valid",
    403: "The permission is missing",
    413: "The body is too large",
    422: "The request does not fit the schema",
    429: "A rate limit is used up",
    503: "A part of the service cannot be reached",
    504: "A part of the service did not answer in time",
}


class _StrictRequest(Request):
    async def json(self) -> Any:
        return await strict_json.read(await self.body())


class StrictRoute(APIRoute):
    """Bodies must say that they are JSON, and are parsed strictly."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()
        takes_body = self.body_field is not None

        async def strict(request: Request) -> Response:
            if takes_body:
                strict_json.require_content_type(request.headers.get("content-type"))
            return await handler(_StrictRequest(request.scope, request.receive))

        return strict


def problem_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """OpenAPI entries for the errors that every route can answer with, and `statuses`."""
    described = {
        **_COMMON,
        **{status: {404: "There is no such thing", 409: "Conflict", 415: "Wrong content type"}[status] for status in statuses},
    }
    content = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {status: {"description": text, "content": content} for status, text in sorted(described.items())}


def new_application(version: str) -> FastAPI:
    """An application without routes."""
    api = FastAPI(
        title="Wireroom",
        version=version,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
        responses=problem_responses(),
        # The pipeline traces and measures; the framework's own spans would double both, at a cost above that of the whole pipeline.
        telemetry={"tracing": False, "metrics": False, "logs": False, "operation_spans": False},
    )
    api.router.route_class = StrictRoute

    async def failed(request: Request, error: Exception) -> Response:
        return render(request.scope, error)

    async def does_not_fit(request: Request, error: Exception) -> Response:
        return render(request.scope, validation_problem(error) if isinstance(error, RequestValidationError) else error)

    async def client_gone(_request: Request, _error: Exception) -> Response:
        return Response(status_code=CLIENT_GONE)

    for kind in (WireroomError, HTTPException, Exception):
        api.add_exception_handler(kind, failed)
    api.add_exception_handler(RequestValidationError, does_not_fit)
    api.add_exception_handler(ClientDisconnect, client_gone)
    return api


def validation_problem(error: RequestValidationError) -> Exception:
    """The 422 answer for input that does not fit."""
    # Never the input itself: it may be a password, or not printable.
    fields = [
        FieldProblem(".".join(str(part) for part in entry["loc"])[:_MAX_TEXT], str(entry["msg"])[:_MAX_TEXT])
        for entry in error.errors()[:_MAX_PROBLEMS]
    ]
    names = ", ".join(entry.field for entry in fields[:3])
    return http_problem(422, f"The request does not fit the schema: {names}.", fields=fields)
