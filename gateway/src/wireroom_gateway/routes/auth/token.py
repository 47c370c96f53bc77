"""`POST /auth/token`: access tokens for machines, by the client credentials grant of OAuth 2 (RFC 6749, section 4.4)."""

from __future__ import annotations

import base64
import binascii
from typing import Any
from urllib.parse import parse_qsl, unquote_plus

from fastapi import FastAPI, Request, Response
from starlette.responses import JSONResponse

from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_gateway.access import Need, access
from wireroom_gateway.problems import http_problem
from wireroom_gateway.request_state import request_state
from wireroom_gateway.routes.application import problem_responses
from wireroom_gateway.routes.fields import Output
from wireroom_gateway.services import Services
from wireroom_protos.auth.v1 import auth_pb2

GRANT = "client_credentials"
_FORM = "application/x-www-form-urlencoded"
_MAX_FIELDS = 20
_MAX_TEXT = 4_096
_MAX_SCOPES = 100
_NOT_STORED = {"cache-control": "no-store", "pragma": "no-cache"}
_ERRORS = {"client_invalid": "invalid_client", "scope_invalid": "invalid_scope", "client_unauthorized": "unauthorized_client"}

_REQUEST_BODY: dict[str, Any] = {
    "required": True,
    "content": {
        _FORM: {
            "schema": {
                "type": "object",
                "required": ["grant_type"],
                "properties": {
                    "grant_type": {"type": "string", "enum": [GRANT]},
                    "scope": {"type": "string", "description": "Permissions with spaces between; all of the key's by default"},
                    "client_id": {"type": "string", "description": "The API key's id, unless HTTP Basic names it"},
                    "client_secret": {"type": "string", "description": "The API key, unless HTTP Basic holds it"},
                },
            }
        }
    },
}
_ERROR_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["error", "error_description"],
    "properties": {"error": {"type": "string"}, "error_description": {"type": "string"}},
}


class AccessTokenOutput(Output):
    """A token; `expires_in` in seconds, `scope` with spaces between the permissions."""

    access_token: str
    token_type: str = "Bearer"  # noqa: S105 - the scheme's name
    expires_in: int
    scope: str


class _OAuthError(Exception):
    def __init__(self, error: str, description: str) -> None:
        super().__init__(error)
        self.error = error
        self.description = description


def add_token_route(api: FastAPI, services: Services, *, timeout: float) -> None:
    """`/auth/token`."""
    responses = problem_responses(415)
    # What is refused before the request gets here is told as everywhere else.
    for status, description in ((400, "Refused"), (401, "The client is not known")):
        content = {**responses[status]["content"], "application/json": {"schema": _ERROR_SCHEMA}}
        responses[status] = {"description": description, "content": content}

    # Whoever guesses here guesses 256 random bits: the limits of ordinary routes are enough, and machines share addresses.
    @api.post(
        "/auth/token",
        tags=["auth"],
        response_model=AccessTokenOutput,
        responses=responses,
        openapi_extra={"requestBody": _REQUEST_BODY},
    )
    @access(Need.NOTHING, secret_answer=True)
    async def token(request: Request) -> Response:
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != _FORM:
            raise http_problem(415, f"Send the body as 'Content-Type: {_FORM}'.", headers={"accept": _FORM})
        try:
            form = _form(await request.body())
            client_id, secret = _client(request.headers.getlist("authorization"), form)
            granted = await services.auth.IssueToken(
                auth_pb2.IssueTokenRequest(
                    client_id=client_id,
                    client_secret=secret,
                    scope=_scope(form),
                    client_ip=request_state(request.scope).client_ip,
                ),
                timeout=timeout,
            )
        except _OAuthError as error:
            return _refusal(error)
        except WireroomError as error:
            if error.code not in _ERRORS or error.kind is ErrorKind.UNAVAILABLE:
                raise
            return _refusal(_OAuthError(_ERRORS[error.code], error.detail))
        answer = AccessTokenOutput(
            access_token=granted.access_token, expires_in=granted.expires_in, scope=" ".join(granted.scope)
        )
        return JSONResponse(answer.model_dump(), headers=_NOT_STORED)


def _refusal(error: _OAuthError) -> Response:
    unknown = error.error == "invalid_client"
    headers = {**_NOT_STORED, "www-authenticate": 'Basic realm="wireroom"'} if unknown else _NOT_STORED
    # The alphabet that RFC 6749 allows in descriptions.
    description = "".join(c for c in error.description.replace('"', "'") if " " <= c <= "~" and c != "\\")
    return JSONResponse({"error": error.error, "error_description": description}, 401 if unknown else 400, headers)


def _form(body: bytes) -> dict[str, str]:
    try:
        pairs = parse_qsl(
            body.decode("ascii"), keep_blank_values=True, strict_parsing=bool(body), errors="strict", max_num_fields=_MAX_FIELDS
        )
    except ValueError:
        raise _OAuthError("invalid_request", "The body is not a form.") from None
    form = dict(pairs)
    if len(form) != len(pairs):
        raise _OAuthError("invalid_request", "A parameter is there twice.")
    if any("\x00" in value or len(value) > _MAX_TEXT for value in form.values()):
        raise _OAuthError("invalid_request", "A parameter is malformed.")
    grant = form.get("grant_type", "")
    if not grant:
        raise _OAuthError("invalid_request", "grant_type is missing.")
    if grant != GRANT:
        raise _OAuthError("unsupported_grant_type", f"grant_type must be {GRANT}.")
    return form


def _client(authorization: list[str], form: dict[str, str]) -> tuple[str, str]:
    """Id and secret from HTTP Basic or from the form, not from both."""
    posted = "client_secret" in form
    if len(authorization) > 1 or (authorization and posted):
        raise _OAuthError("invalid_request", "Name the client in one way: by HTTP Basic or in the form.")
    if not authorization:
        if not posted or not form.get("client_id"):
            raise _OAuthError("invalid_client", "Send client_id (an API key's id) and client_secret (the key).")
        return form["client_id"], form["client_secret"]
    scheme, _, encoded = authorization[0].partition(" ")
    if scheme.lower() != "basic":
        raise _OAuthError("invalid_client", "The Authorization header is not HTTP Basic.")
    try:
        name, colon, secret = base64.b64decode(encoded.strip(), validate=True).decode("ascii").partition(":")
        client_id, client_secret = unquote_plus(name, errors="strict"), unquote_plus(secret, errors="strict")
    except (ValueError, binascii.Error):
        raise _OAuthError("invalid_client", "The Authorization header is not HTTP Basic.") from None
    if not colon or not client_id or "\x00" in client_id + client_secret:
        raise _OAuthError("invalid_client", "The Authorization header holds no client id and secret.")
    if form.get("client_id", client_id) != client_id:
        raise _OAuthError("invalid_request", "client_id differs from the one of HTTP Basic.")
    return client_id, client_secret


def _scope(form: dict[str, str]) -> list[str]:
    scope = form.get("scope", "").split(" ") if form.get("scope") else []
    if len(scope) > _MAX_SCOPES or not all(scope):
        raise _OAuthError("invalid_scope", "scope is a list of permissions with one space between.")
    return scope
