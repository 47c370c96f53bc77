"""The edge of second factors, logins at identity providers, and what is done by mail."""

from __future__ import annotations

from http.cookies import SimpleCookie
from typing import Any
from urllib.parse import parse_qs

import aiohttp
import pytest
from gateway_rig import Rig

from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_protos.auth.v1 import auth_pb2

TOKENS = auth_pb2.Tokens(access_token="a", refresh_token="r", expires_in=1800, session_id="s")
CASES = [
    ("GET", "/auth/mfa", None, 200, "GetSecondFactor", {}),
    ("POST", "/auth/mfa/totp/enroll", {"password": "p"}, 200, "EnrollTotp", {"password": "p"}),
    ("POST", "/auth/mfa/totp/verify", {"code": "123456"}, 200, "ConfirmTotp", {"code": "123456"}),
    (
        "POST",
        "/auth/mfa/totp/disable",
        {"password": "p", "code": "123456"},
        204,
        "DisableTotp",
        {"password": "p", "code": "123456"},
    ),
    ("POST", "/auth/login/mfa", {"mfa_token": "m", "code": "123456"}, 200, "FinishLogin", {"mfa_token": "m", "code": "123456"}),
    ("POST", "/auth/password/forgot", {"email": "a@b.example"}, 202, "StartReset", {"email": "a@b.example"}),
    (
        "POST",
        "/auth/password/reset",
        {"token": "t", "new_password": "n"},
        204,
        "FinishReset",
        {"token": "t", "new_password": "n"},
    ),
    ("POST", "/auth/email/verification", None, 202, "SendVerification", {}),
    ("POST", "/auth/email/verify", {"token": "t"}, 200, "VerifyEmail", {"token": "t"}),
    ("GET", "/auth/oidc", None, 200, "ListProviders", {}),
]


@pytest.mark.parametrize(("method", "path", "body", "status", "rpc", "fields"), CASES)
async def test_requests_reach_their_rpc(  # noqa: PLR0917 - one row of the table
    rig: Rig, method: str, path: str, body: Any, status: int, rpc: str, fields: dict[str, Any]
) -> None:
    async with rig.session.request(method, path, json=body, headers=rig.bearer()) as reply:
        assert reply.status == status, await reply.text()
    (call,) = rig.neighbours.called(rpc)
    assert {name: getattr(call.request, name) for name in fields} == fields


@pytest.mark.parametrize(
    "path", ["/auth/mfa", "/auth/mfa/totp/enroll", "/auth/mfa/totp/verify", "/auth/mfa/totp/disable", "/auth/email/verification"]
)
async def test_what_concerns_an_account_needs_its_session(rig: Rig, path: str) -> None:
    method = "GET" if path == "/auth/mfa" else "POST"
    async with rig.session.request(method, path, json=None if method == "GET" else {"password": "p", "code": "123456"}) as reply:
        assert reply.status == 401


async def test_a_login_with_a_second_factor_says_what_is_missing(rig: Rig) -> None:
    async def first_step(_request: Any) -> Any:
        return auth_pb2.LoginResponse(mfa_token="m", mfa_expires_in=300)

    async def second_step(request: Any) -> Any:
        if request.code != "123456":
            raise WireroomError(ErrorKind.UNAUTHENTICATED, "mfa_code_invalid", "The code is wrong.")
        return auth_pb2.FinishLoginResponse(tokens=TOKENS, user=auth_pb2.User(id="u", second_factor=True))

    rig.neighbours.answers |= {"Login": first_step, "FinishLogin": second_step}
    async with rig.session.post("/auth/login", json={"email": "a@b.example", "password": "p"}) as reply:
        assert reply.status == 200
        assert await reply.json() == {"mfa_required": True, "mfa_token": "m", "mfa_expires_in": 300}
    async with rig.session.post("/auth/login/mfa", json={"mfa_token": "m", "code": "654321"}) as reply:
        assert (reply.status, (await reply.json())["code"]) == (401, "mfa_code_invalid")
    async with rig.session.post("/auth/login/mfa", json={"mfa_token": "m", "code": "123456"}) as reply:
        answer = await reply.json()
    assert (answer["access_token"], answer["user"]["second_factor"]) == ("a", True)
    assert rig.neighbours.called("FinishLogin")[0].request.client_ip == "127.0.0.1"


async def start_oidc(rig: Rig, path: str) -> tuple[aiohttp.ClientResponse, SimpleCookie]:
    async def start(request: Any) -> Any:
        assert request.provider == "corp"
        return auth_pb2.StartOidcResponse(
            authorization_url="https://login.example/auth?x=1", browser_binding="b1", expires_in=600
        )

    rig.neighbours.answers["StartOidc"] = start
    async with rig.session.get(path, allow_redirects=False) as reply:
        await reply.read()
    cookies = SimpleCookie()
    for line in reply.headers.getall("set-cookie", []):
        cookies.load(line)
    return reply, cookies


async def finished(request: Any) -> Any:
    if (request.state, request.code, request.issuer) != ("s", "c", "https://login.example") or request.browser_binding != "b1":
        raise WireroomError(ErrorKind.INVALID, "oidc_state_invalid", "Begin again.")
    return auth_pb2.FinishOidcResponse(tokens=TOKENS, user=auth_pb2.User(id="u"))


RETURNED = "state=s&code=c&iss=https%3A%2F%2Flogin.example&session_state=ignored"


async def test_a_login_at_a_provider_without_a_page_ends_in_json(rig: Rig) -> None:
    reply, cookies = await start_oidc(rig, "/auth/oidc/corp/start")
    assert (reply.status, reply.headers["location"]) == (302, "https://login.example/auth?x=1")
    assert reply.headers["referrer-policy"] == "no-referrer"
    (cookie,) = cookies.values()
    assert cookie.key == "wireroom-oidc"  # The rig's public address is plain HTTP.
    assert (cookie["httponly"], cookie["samesite"].lower(), cookie["path"], cookie["max-age"]) == (True, "lax", "/", "600")
    assert not cookie["domain"]
    rig.neighbours.answers["FinishOidc"] = finished
    callback = f"/auth/oidc/corp/callback?{RETURNED}"
    headers = {"cookie": f"{cookie.key}={cookie.value}"}
    async with rig.session.get(callback, headers=headers, allow_redirects=False) as reply:
        assert reply.status == 200
        assert (await reply.json())["access_token"] == "a"
        assert "max-age=0" in reply.headers["set-cookie"].lower()
    # Another browser brings no cookie, or that of another login.
    rig.session.cookie_jar.clear()
    for other in ({}, {"cookie": "wireroom-oidc=x.y"}, {"cookie": "wireroom-oidc=.%%"}):
        async with rig.session.get(callback, headers=other, allow_redirects=False) as reply:
            assert (reply.status, (await reply.json())["code"]) == (400, "oidc_state_invalid")


async def test_a_page_gets_the_answer_in_the_fragment_and_the_tokens_by_posting_it(rig: Rig) -> None:
    _, cookies = await start_oidc(rig, "/auth/oidc/corp/start?return_to=/console?tab=1")
    (cookie,) = cookies.values()
    headers = {"cookie": f"{cookie.key}={cookie.value}"}
    rig.neighbours.answers["FinishOidc"] = finished
    async with rig.session.get(f"/auth/oidc/corp/callback?{RETURNED}", headers=headers, allow_redirects=False) as reply:
        assert reply.status == 303
        page, _, fragment = reply.headers["location"].partition("#")
    assert page == "/console?tab=1"
    assert rig.neighbours.called("FinishOidc") == []
    given = {name: values[0] for name, values in parse_qs(fragment).items()}
    assert given.pop("provider") == "corp"
    async with rig.session.post("/auth/oidc/corp/finish", json=given, headers=headers) as reply:
        assert reply.status == 200, await reply.text()
        assert (await reply.json())["refresh_token"] == "r"
    async with rig.session.post("/auth/oidc/corp/finish", json=given, headers={"cookie": "a=b"}) as reply:
        assert reply.status == 400


@pytest.mark.parametrize("path", ["//evil.example", "/%5Cevil.example", "https://evil.example", "/a%0Ab", "evil"])
async def test_a_login_returns_to_this_installation_only(rig: Rig, path: str) -> None:
    reply, _ = await start_oidc(rig, f"/auth/oidc/corp/start?return_to={path}")
    assert reply.status == 422
    assert rig.neighbours.called("StartOidc") == []


async def test_a_forged_cookie_sends_nobody_elsewhere(rig: Rig) -> None:
    for encoded in ("Ly9ldmlsLmV4YW1wbGU", "aHR0cHM6Ly9ldmlsLmV4YW1wbGU", "L1xldmls", "L2ENCmI"):
        headers = {"cookie": f"wireroom-oidc=b1.{encoded}"}
        async with rig.session.get(f"/auth/oidc/corp/callback?{RETURNED}", headers=headers, allow_redirects=False) as reply:
            assert reply.status == 400
            assert "location" not in reply.headers


async def test_a_provider_that_is_away_is_a_problem_with_a_time(rig: Rig) -> None:
    async def away(_request: Any) -> Any:
        raise WireroomError(ErrorKind.UNAVAILABLE, "oidc_provider_unavailable", "Corp cannot be reached.", retry_after=10)

    rig.neighbours.answers["StartOidc"] = away
    async with rig.session.get("/auth/oidc/corp/start", allow_redirects=False) as reply:
        assert (reply.status, reply.headers["retry-after"]) == (503, "10")
        assert (await reply.json())["code"] == "oidc_provider_unavailable"


async def test_the_page_of_mailed_links_runs_its_own_script_only(rig: Rig) -> None:
    async with rig.session.get("/auth/link") as reply:
        page = await reply.text()
        assert reply.content_type == "text/html"
        policy = reply.headers["content-security-policy"]
        assert reply.headers["cache-control"] == "no-store"
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "<script src=" in page
    assert "style=" not in page
    for path, kind in (("/auth/link.js", "text/javascript"), ("/auth/link.css", "text/css")):
        assert path in page
        async with rig.session.get(path) as reply:
            assert (reply.status, reply.content_type) == (200, kind)


async def test_no_token_of_these_routes_is_logged(
    rig: Rig, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    for path, body in (
        ("/auth/password/reset", {"token": "canary-token-1", "new_password": "canary-password-2"}),
        ("/auth/login/mfa", {"mfa_token": "canary-token-3", "code": "canary-4"}),
        ("/auth/oidc/corp/finish", {"state": "canary-state-5", "code": "canary-code-6"}),
    ):
        async with rig.session.post(path, json=body) as reply:
            await reply.read()
    async with rig.session.get("/auth/oidc/corp/callback?state=canary-7&code=canary-8", allow_redirects=False) as reply:
        await reply.read()
    output = capsys.readouterr().out + caplog.text
    assert output.count("http_request") >= 4
    assert "canary" not in output
