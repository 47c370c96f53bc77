"""Login at external identity providers.

`start` sends the browser to the provider, `callback` is where the provider sends it back to. Two ways on from there:

- Without `return_to`, the callback answers with the tokens as JSON.
- With `return_to` (a path of this installation), the callback sends the browser on to that page, with `state`, `code` and `iss` in the
  fragment; the page posts them to `finish`, which answers with the tokens. No token ever stands in an address.

A cookie that only this browser has binds the steps together: an answer of the provider that somebody else obtained is of no use.
"""

from __future__ import annotations

import base64
import binascii
from typing import Annotated
from urllib.parse import urlencode

from fastapi import FastAPI, Query, Request, Response
from pydantic import Field

from wireroom_common.errors import invalid
from wireroom_gateway.access import Bucket, Need, access
from wireroom_gateway.request_state import request_state
from wireroom_gateway.routes.application import problem_responses
from wireroom_gateway.routes.auth.messages import (
    MAX_USER_AGENT,
    LoginOutput,
    MfaRequiredOutput,
    login_output,
)
from wireroom_gateway.routes.fields import Input, Output
from wireroom_gateway.services import Services
from wireroom_protos.auth.v1 import auth_pb2

_TEXT = r"^[^\x00]*$"
ReturnTo = Annotated[
    str,
    Query(
        max_length=500, pattern=r"^(/([^/\\\x00-\x20\x7f#][^\\\x00-\x20\x7f#]*)?)?$", description="A path of this installation"
    ),
]
Parameter = Annotated[str, Query(max_length=4_096, pattern=_TEXT)]
Field4K = Annotated[str, Field(max_length=4_096, pattern=_TEXT)]


class ProviderOutput(Output):
    """An identity provider: begin at `/auth/oidc/{name}/start`."""

    name: str
    title: str


class ProvidersOutput(Output):
    """Those that are configured."""

    providers: list[ProviderOutput]


class FinishOidcInput(Input):
    """What stood in the fragment."""

    state: Field4K
    code: Field4K = ""
    iss: Field4K = ""
    error: Field4K = ""


class BindingCookie:
    """The cookie that binds a login to the browser. Over plain HTTP (only for development) it can be neither `Secure` nor `__Host-`."""

    def __init__(self, *, secure: bool) -> None:
        self._secure = secure
        self.name = "__Host-wireroom-oidc" if secure else "wireroom-oidc"

    def put(self, response: Response, binding: str, return_to: str, max_age: int) -> None:
        """Remember the binding and where the browser goes afterwards."""
        value = f"{binding}.{base64.urlsafe_b64encode(return_to.encode()).decode().rstrip('=')}"
        response.set_cookie(self.name, value, max_age=max_age, path="/", secure=self._secure, httponly=True, samesite="lax")

    def get(self, request: Request) -> tuple[str, str]:
        """Binding and page; empty without a cookie."""
        binding, _, encoded = request.cookies.get(self.name, "").partition(".")
        try:
            return_to = base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4)).decode()
        except (ValueError, binascii.Error):
            return_to = ""
        return binding[:200], return_to

    def remove(self, response: Response) -> None:
        """The login is over."""
        response.delete_cookie(self.name, path="/", secure=self._secure, httponly=True, samesite="lax")


def add_oidc_routes(api: FastAPI, services: Services, *, timeout: float, secure: bool) -> None:
    """`/auth/oidc`. `secure`: clients reach the installation over HTTPS."""
    cookie = BindingCookie(secure=secure)

    async def finish(provider: str, given: FinishOidcInput, binding: str, request: Request) -> LoginOutput | MfaRequiredOutput:
        answer = await services.oidc.FinishOidc(
            auth_pb2.FinishOidcRequest(
                provider=provider,
                state=given.state,
                code=given.code,
                issuer=given.iss,
                error=given.error,
                browser_binding=binding,
                client_ip=request_state(request.scope).client_ip,
                user_agent=request.headers.get("user-agent", "")[:MAX_USER_AGENT],
            ),
            timeout=timeout,
        )
        return login_output(answer)

    @api.get("/auth/oidc", tags=["auth"])
    @access(Need.NOTHING)
    async def list_providers() -> ProvidersOutput:
        answer = await services.oidc.ListProviders(auth_pb2.ListProvidersRequest(), timeout=timeout)
        return ProvidersOutput(providers=[ProviderOutput(name=entry.name, title=entry.title) for entry in answer.providers])

    @api.get(
        "/auth/oidc/{provider}/start",
        tags=["auth"],
        response_class=Response,
        status_code=302,
        responses={**problem_responses(404), 302: {"description": "To the identity provider"}},
    )
    @access(Need.NOTHING, bucket=Bucket.AUTH)
    async def start_oidc(provider: str, return_to: ReturnTo = "") -> Response:
        message = auth_pb2.StartOidcRequest(provider=provider, return_to=return_to)
        answer = await services.oidc.StartOidc(message, timeout=timeout)
        response = Response(status_code=302, headers={"location": answer.authorization_url})
        cookie.put(response, answer.browser_binding, return_to, answer.expires_in)
        return response

    @api.get(
        "/auth/oidc/{provider}/callback",
        tags=["auth"],
        response_model=LoginOutput | MfaRequiredOutput,
        responses={**problem_responses(404, 409), 303: {"description": "To `return_to`, with the answer in the fragment"}},
    )
    @access(Need.NOTHING, secret_answer=True)
    async def oidc_callback(  # noqa: PLR0917 - FastAPI passes parameters by name
        provider: str,
        request: Request,
        response: Response,
        state: Parameter = "",
        code: Parameter = "",
        iss: Parameter = "",
        error: Parameter = "",
    ) -> LoginOutput | MfaRequiredOutput | Response:
        binding, return_to = cookie.get(request)
        if return_to:
            if not return_to.startswith("/") or return_to.startswith(("//", "/\\")) or not return_to.isprintable():
                raise invalid("return_to_invalid", "The page to return to is not one of this installation.", field="return_to")
            given = {"provider": provider, "state": state, "code": code, "iss": iss, "error": error}
            fragment = urlencode({name: value for name, value in given.items() if value})
            return Response(status_code=303, headers={"location": f"{return_to}#{fragment}"})
        answer = await finish(provider, FinishOidcInput(state=state, code=code, iss=iss, error=error), binding, request)
        cookie.remove(response)
        return answer

    @api.post("/auth/oidc/{provider}/finish", tags=["auth"], responses=problem_responses(404, 409, 415))
    @access(Need.NOTHING, secret_answer=True)
    async def finish_oidc(
        provider: str, body: FinishOidcInput, request: Request, response: Response
    ) -> LoginOutput | MfaRequiredOutput:
        binding, _ = cookie.get(request)
        answer = await finish(provider, body, binding, request)
        cookie.remove(response)
        return answer
