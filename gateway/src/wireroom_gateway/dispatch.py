"""From a matched route to its answer, without the framework's stack around each request.

FastAPI describes the routes (OpenAPI) and its compiled fields validate their parameters. Serving a small answer through its middlewares,
router, dependency solver and operation spans costs more than everything else the gateway does, so routes of the plain kind (path and
query parameters, one JSON body, a model or a `Response` as the answer) are called from here. Any other route goes through FastAPI.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from types import UnionType
from typing import Any, Literal, Union, cast, get_args, get_origin
from urllib.parse import parse_qsl

import orjson
from fastapi import FastAPI
from fastapi.datastructures import DefaultPlaceholder
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from wireroom_gateway import strict_json
from wireroom_gateway.request_body import read_body
from wireroom_gateway.request_state import request_state
from wireroom_gateway.routes.application import StrictRoute, validation_problem

_JSON = [(b"content-type", b"application/json")]
_MISSING: Mapping[str, Any] = {"type": "missing", "msg": "Field required", "input": None}


class Dispatch:
    """Innermost application of the pipeline: `state.route` is known to be set and permitted."""

    def __init__(self, api: FastAPI) -> None:
        self._api = api
        # By identity: routes compare by value and have no hash.
        self._handlers: dict[int, ASGIApp] = {id(route): _handler(route) or api for route in api.router.routes}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        declared = request_state(scope).route
        handler = self._handlers[id(declared.route)] if declared is not None else self._api
        await handler(scope, receive, send)


def _handler(route: BaseRoute) -> ASGIApp | None:
    """How to serve the route directly; None if only the framework can."""
    if isinstance(route, APIRoute):
        return _PlainRoute(route) if _is_plain(route) else None
    if isinstance(route, WebSocketRoute):
        # What it serves is the handshake, which comes as a request.
        return cast("ASGIApp", route.endpoint)
    if isinstance(route, Route) and not inspect.isroutine(route.endpoint):
        return route.app
    return None


def _is_plain(route: APIRoute) -> bool:
    needs = route.dependant
    bodies = needs.body_params
    return (
        isinstance(route, StrictRoute)
        and inspect.iscoroutinefunction(route.endpoint)
        and not (needs.header_params or needs.cookie_params or needs.dependencies or route.dependencies)
        and not (needs.websocket_param_name or needs.response_param_name or needs.background_tasks_param_name)
        and needs.security_scopes_param_name is None
        and needs.http_connection_param_name is None
        and all(_is_scalar(field) for field in (*needs.path_params, *needs.query_params))
        and len(bodies) <= 1
        and all(_is_model(field.field_info.annotation) and not getattr(field.field_info, "embed", None) for field in bodies)
        and (route.response_field is None or _is_writable(route.response_field.field_info.annotation))
        and not (route.response_model_include or route.response_model_exclude)
        and not (route.response_model_exclude_unset or route.response_model_exclude_defaults or route.response_model_exclude_none)
        and (isinstance(route.response_class, DefaultPlaceholder) or route.response_field is None)
    )


def _is_model(annotation: Any) -> bool:
    return inspect.isclass(annotation) and issubclass(annotation, BaseModel)


def _is_writable(annotation: Any) -> bool:
    return _is_model(annotation) or get_origin(annotation) is dict


def _is_scalar(field: Any) -> bool:
    annotation = field.field_info.annotation
    choices = get_args(annotation) if get_origin(annotation) in {Union, UnionType} else (annotation,)
    return field.validation_alias is None and all(
        (inspect.isclass(choice) and not issubclass(choice, (BaseModel, list, tuple, set, frozenset, dict)))
        or get_origin(choice) is Literal
        for choice in choices
    )


class _PlainRoute:
    """Validates with the route's own fields, calls the endpoint, writes the model."""

    def __init__(self, route: APIRoute) -> None:
        needs = route.dependant
        self._endpoint = cast("Callable[..., Awaitable[Any]]", route.endpoint)
        self._path = [(field, route.param_convertors[field.alias].convert) for field in needs.path_params]
        self._regex = route.path_regex
        self._query: Sequence[Any] = needs.query_params
        self._body = needs.body_params[0] if needs.body_params else None
        self._request_name = needs.request_param_name
        self._status = route.status_code or 200
        self._model = route.response_field.field_info.annotation if route.response_field is not None else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        arguments: dict[str, Any] = {}
        problems: list[Any] = []
        if self._path:
            found = self._regex.match(scope["path"])
            texts = found.groupdict() if found else {}
            for field, convert in self._path:
                _take(field, convert(texts[field.alias]), ("path", field.alias), arguments, problems)
        if self._query:
            self._take_query(scope, arguments, problems)
        if self._body is not None:
            raw = await _read_body(scope, receive)
            value = await strict_json.read(raw) if raw else None
            _take(self._body, value, ("body",), arguments, problems)
        if problems:
            raise validation_problem(RequestValidationError(problems))
        if self._request_name:
            arguments[self._request_name] = Request(scope, receive)
        answer = await self._endpoint(**arguments)
        if isinstance(answer, Response):
            await answer(scope, receive, send)
            return
        if self._model is not None and type(answer) is self._model:
            body = cast("BaseModel", answer).__pydantic_serializer__.to_json(answer, by_alias=True)
        elif isinstance(answer, dict) and get_origin(self._model) is dict:
            body = orjson.dumps(answer)
        else:
            message = f"{scope['path']}: the endpoint answered a {type(answer).__name__}, which it does not declare"
            raise TypeError(message)
        await send(
            {
                "type": "http.response.start",
                "status": self._status,
                "headers": [*_JSON, (b"content-length", str(len(body)).encode())],
            }
        )
        await send({"type": "http.response.body", "body": body})

    def _take_query(self, scope: Scope, arguments: dict[str, Any], problems: list[Any]) -> None:
        raw = scope["query_string"]
        # Of a repeated parameter the last one counts.
        values = dict(parse_qsl(raw.decode("latin-1"), keep_blank_values=True)) if raw else {}
        for field in self._query:
            _take(field, values.get(field.alias), ("query", field.alias), arguments, problems)


def _take(field: Any, value: Any, place: tuple[str, ...], arguments: dict[str, Any], problems: list[Any]) -> None:
    if value is None:
        if field.field_info.is_required():
            problems.append({**_MISSING, "loc": place})
        else:
            arguments[field.name] = copy.deepcopy(field.get_default())
        return
    arguments[field.name], errors = field.validate(value, {}, loc=place)
    problems.extend(errors or ())


async def _read_body(scope: Scope, receive: Receive) -> bytes:
    given = next((value for name, value in scope["headers"] if name == b"content-type"), None)
    strict_json.require_content_type(given.decode("latin-1") if given is not None else None)
    return await read_body(receive)
