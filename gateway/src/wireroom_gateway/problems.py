"""The one table from error kinds to HTTP answers: RFC 9457 problem documents, and OpenAI error objects below /v1."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import Scope

from wireroom_common.errors import ErrorKind, FieldProblem, WireroomError
from wireroom_gateway.request_state import request_state

PROBLEM_TYPE = "application/problem+json"
_INTERNAL_DETAIL = "An internal error occurred. Report the request id to the operator."
_MAX_DETAIL = 2_000

STATUS: Mapping[ErrorKind, tuple[int, str]] = {
    ErrorKind.INVALID: (400, "Bad Request"),
    ErrorKind.UNAUTHENTICATED: (401, "Unauthorized"),
    ErrorKind.FORBIDDEN: (403, "Forbidden"),
    ErrorKind.NOT_FOUND: (404, "Not Found"),
    ErrorKind.CONFLICT: (409, "Conflict"),
    ErrorKind.TOO_LARGE: (413, "Content Too Large"),
    ErrorKind.RATE_LIMITED: (429, "Too Many Requests"),
    ErrorKind.INTERNAL: (500, "Internal Server Error"),
    ErrorKind.UNAVAILABLE: (503, "Service Unavailable"),
    ErrorKind.DEADLINE: (504, "Gateway Timeout"),
}
# Statuses that only HTTP knows, and what the framework itself may raise.
_HTTP_ONLY: Mapping[int, tuple[str, str]] = {
    408: ("request_timeout", "Request Timeout"),
    405: ("method_not_allowed", "Method Not Allowed"),
    414: ("target_too_long", "URI Too Long"),
    415: ("content_type_unsupported", "Unsupported Media Type"),
    422: ("request_invalid", "Unprocessable Content"),
    426: ("upgrade_required", "Upgrade Required"),
    431: ("header_fields_too_large", "Request Header Fields Too Large"),
    501: ("not_implemented", "Not Implemented"),
    505: ("http_version_unsupported", "HTTP Version Not Supported"),
}
# Clients of OpenAI know this code, and that its type is the same word.
_SPENT = "insufficient_quota"
_OPENAI_TYPES: Mapping[int, str] = {
    401: "authentication_error",
    403: "permission_error",
    409: "conflict_error",
    429: "rate_limit_error",
}


@dataclass(frozen=True)
class Problem:
    """An error ready to be rendered."""

    status: int
    title: str
    code: str
    detail: str
    fields: Sequence[FieldProblem] = ()
    headers: Mapping[str, str] | None = None


class HttpProblemError(HTTPException):
    """An error that only exists at the HTTP edge. The framework passes HTTPExceptions on where it swallows others."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.status, problem.detail)
        self.problem = problem


def http_problem(
    status: int,
    detail: str,
    *,
    code: str = "",
    headers: Mapping[str, str] | None = None,
    fields: Sequence[FieldProblem] = (),
) -> HttpProblemError:
    """An error by HTTP status."""
    default_code, title = _HTTP_ONLY.get(status) or _known(status)
    return HttpProblemError(Problem(status, title, code or default_code, detail, fields, headers))


def _known(status: int) -> tuple[str, str]:
    for kind, (known, title) in STATUS.items():
        if known == status:
            return kind.value, title
    return ("http_error", "Error") if status < 500 else ("internal", "Internal Server Error")  # noqa: PLR2004 - HTTP's classes


def problem_of(error: BaseException) -> Problem:
    """How an exception is told; anything unforeseen says nothing about itself."""
    if isinstance(error, HttpProblemError):
        return error.problem
    if isinstance(error, HTTPException):
        code, title = _HTTP_ONLY.get(error.status_code) or _known(error.status_code)
        return Problem(error.status_code, title, code, f"{title}.", headers=error.headers)
    if isinstance(error, WireroomError) and error.kind is not ErrorKind.INTERNAL:
        status, title = STATUS[error.kind]
        headers: dict[str, str] = {}
        if error.kind is ErrorKind.UNAUTHENTICATED:
            invalid = ', error="invalid_token"' if error.code == "credential_invalid" else ""
            headers["www-authenticate"] = f'Bearer realm="wireroom"{invalid}'
        if error.retry_after > 0 or (error.kind in (ErrorKind.UNAVAILABLE, ErrorKind.RATE_LIMITED) and error.code != _SPENT):
            headers["retry-after"] = str(max(1, math.ceil(error.retry_after)))
        if error.code == _SPENT:
            # Asking again does not help until somebody raises the budget or the day has passed: OpenAI's SDKs obey this.
            headers["x-should-retry"] = "false"
        return Problem(status, title, error.code, error.detail[:_MAX_DETAIL], error.fields, headers)
    return Problem(500, "Internal Server Error", "internal", _INTERNAL_DETAIL)


def render(scope: Scope, error: BaseException) -> Response:
    """The answer to a request that failed, in the dialect of its path."""
    problem = problem_of(error)
    state = request_state(scope)
    state.error_code = problem.code
    path = str(scope["path"])
    if path == "/v1" or path.startswith("/v1/"):
        return Response(_dump(openai_error(problem)), problem.status, problem.headers, "application/json")
    body = {
        "type": f"urn:wireroom:problem:{problem.code}",
        "title": problem.title,
        "status": problem.status,
        "detail": problem.detail,
        "code": problem.code,
        "request_id": state.request_id,
        "errors": [{"field": entry.field, "message": entry.message} for entry in problem.fields],
    }
    return Response(_dump(body), problem.status, problem.headers, PROBLEM_TYPE)


def openai_error(problem: Problem) -> dict[str, Any]:
    """The error object of the OpenAI API."""
    kind = _OPENAI_TYPES.get(problem.status, "invalid_request_error" if problem.status < 500 else "server_error")  # noqa: PLR2004
    if problem.code == _SPENT:
        kind = _SPENT
    param = problem.fields[0].field if problem.fields else None
    return {"error": {"message": problem.detail, "type": kind, "param": param, "code": problem.code}}


def _dump(body: dict[str, Any]) -> bytes:
    try:
        return orjson.dumps(body)
    except TypeError:
        # A text with lone surrogates; it came from outside.
        return orjson.dumps(_printable(body))


def _printable(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, dict):
        return {key: _printable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_printable(item) for item in value]
    return value
