from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from gateway_rig import Rig
from gateway_tokens import SESSION

from wireroom_common.errors import ErrorKind, WireroomError, not_found
from wireroom_protos.auth.v1 import auth_pb2

CREDENTIALS = {"email": "ada@example.org", "password": "four horses in the rain"}
TOKENS = auth_pb2.Tokens(access_token="a", refresh_token="r", expires_in=1800, session_id=str(SESSION))


async def call(rig: Rig, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> tuple[int, Any]:
    async with rig.session.request(method, path, json=body, headers={**(rig.bearer() if headers is None else headers)}) as reply:
        return reply.status, await reply.json(content_type=None) if reply.status != 204 else None


async def test_login_hands_on_who_asks_and_answers_with_tokens(rig: Rig) -> None:
    async def login(_request: Any) -> auth_pb2.LoginResponse:
        return auth_pb2.LoginResponse(tokens=TOKENS, user=auth_pb2.User(id="u", email="ada@example.org"))

    rig.neighbours.answers["Login"] = login
    status, answer = await call(rig, "POST", "/auth/login", CREDENTIALS, {"user-agent": "browser/1 " + "x" * 400})
    assert status == 200
    assert (answer["access_token"], answer["session_id"], answer["user"]["email"]) == ("a", str(SESSION), "ada@example.org")
    (seen,) = rig.neighbours.called("Login")
    assert seen.request.client_ip == "127.0.0.1"
    assert seen.request.user_agent.startswith("browser/1 xxx")
    assert len(seen.request.user_agent) == 300


async def test_login_with_a_second_factor_answers_with_a_challenge_instead_of_tokens(rig: Rig) -> None:
    async def login(_request: Any) -> auth_pb2.LoginResponse:
        return auth_pb2.LoginResponse(mfa_token="m", mfa_expires_in=300)

    rig.neighbours.answers["Login"] = login
    status, answer = await call(rig, "POST", "/auth/login", CREDENTIALS, {})
    assert status == 200
    assert (answer["mfa_token"], answer["mfa_expires_in"]) == ("m", 300)
    assert "access_token" not in answer or answer["access_token"] is None


async def test_a_delay_after_failures_is_429_with_retry_after(rig: Rig) -> None:
    async def wait(_request: Any) -> Any:
        raise WireroomError(ErrorKind.RATE_LIMITED, "login_backoff", "Too many failed logins; try again in 8 s.", retry_after=7.2)

    rig.neighbours.answers["Login"] = wait
    async with rig.session.post("/auth/login", json=CREDENTIALS) as reply:
        problem = await reply.json(content_type=None)
        assert (reply.status, reply.headers["retry-after"], problem["code"]) == (429, "8", "login_backoff")


async def test_refresh_hands_on_the_address(rig: Rig) -> None:
    async def refresh(_request: Any) -> auth_pb2.RefreshResponse:
        return auth_pb2.RefreshResponse(tokens=TOKENS)

    rig.neighbours.answers["Refresh"] = refresh
    status, answer = await call(rig, "POST", "/auth/refresh", {"refresh_token": "wr_rt_x"}, {})
    assert (status, answer["refresh_token"]) == (200, "r")
    assert rig.neighbours.called("Refresh")[0].request.client_ip == "127.0.0.1"


async def test_sessions_are_listed_and_ended(rig: Rig) -> None:
    async def sessions(request: auth_pb2.ListSessionsRequest) -> auth_pb2.ListSessionsResponse:
        assert (request.page_size, request.page_token) == (2, "abc")
        session = auth_pb2.SessionInfo(
            id=str(SESSION), client_ip="203.0.113.9", user_agent="b", current=True, methods=["password"]
        )
        session.created_at.FromDatetime(datetime(2026, 1, 1, tzinfo=UTC))
        return auth_pb2.ListSessionsResponse(sessions=[session], next_page_token="next")

    async def unknown(_request: Any) -> Any:
        raise not_found("session")

    rig.neighbours.answers["ListSessions"] = sessions
    status, answer = await call(rig, "GET", "/auth/sessions?page_size=2&page_token=abc")
    assert status == 200
    assert answer == {
        "sessions": [
            {
                "id": str(SESSION),
                "created_at": "2026-01-01T00:00:00Z",
                "last_used_at": None,
                "expires_at": None,
                "client_ip": "203.0.113.9",
                "user_agent": "b",
                "current": True,
                "methods": ["password"],
            }
        ],
        "next_page_token": "next",
    }
    assert (await call(rig, "DELETE", f"/auth/sessions/{SESSION}"))[0] == 204
    assert rig.neighbours.called("RevokeSession")[0].request.id == str(SESSION)
    rig.neighbours.answers["RevokeSession"] = unknown
    status, answer = await call(rig, "DELETE", f"/auth/sessions/{SESSION}")
    assert (status, answer["code"]) == (404, "session_not_found")


async def test_logout_all_says_how_many_sessions_ended(rig: Rig) -> None:
    async def ended(_request: Any) -> auth_pb2.LogoutAllResponse:
        return auth_pb2.LogoutAllResponse(sessions_ended=3)

    rig.neighbours.answers["LogoutAll"] = ended
    assert await call(rig, "POST", "/auth/logout-all") == (200, {"sessions_ended": 3})


async def test_password_change_answers_with_tokens_and_keeps_secrets_to_itself(rig: Rig) -> None:
    async def changed(request: auth_pb2.ChangePasswordRequest) -> auth_pb2.ChangePasswordResponse:
        assert (request.current_password, request.new_password) == ("old", "new")
        return auth_pb2.ChangePasswordResponse(tokens=TOKENS)

    rig.neighbours.answers["ChangePassword"] = changed
    body = {"current_password": "old", "new_password": "new"}
    status, answer = await call(rig, "POST", "/auth/password/change", body)
    assert (status, answer["refresh_token"]) == (200, "r")
    assert rig.neighbours.called("ChangePassword")[0].request.client_ip == "127.0.0.1"


async def test_only_the_name_can_be_changed(rig: Rig) -> None:
    async def update(request: auth_pb2.UpdateMeRequest) -> auth_pb2.UpdateMeResponse:
        return auth_pb2.UpdateMeResponse(user=auth_pb2.User(id="u", name=request.name if request.HasField("name") else "kept"))

    rig.neighbours.answers["UpdateMe"] = update
    assert (await call(rig, "PATCH", "/auth/me", {"name": "Ada"}))[1]["name"] == "Ada"
    assert (await call(rig, "PATCH", "/auth/me", {"name": ""}))[1]["name"] == ""
    assert (await call(rig, "PATCH", "/auth/me", {}))[1]["name"] == "kept"
    for body in ({"roles": ["Admin"]}, {"email": "x@y"}, {"name": 1}, {"name": "Ada", "epoch": 0}):
        assert (await call(rig, "PATCH", "/auth/me", body))[0] == 422


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/auth/logout-all"),
        ("GET", "/auth/sessions"),
        ("DELETE", f"/auth/sessions/{SESSION}"),
        ("PATCH", "/auth/me"),
        ("POST", "/auth/password/change"),
    ],
)
async def test_nobody_gets_there_without_a_credential(rig: Rig, method: str, path: str) -> None:
    calls = len(rig.neighbours.calls)
    assert (await call(rig, method, path, {} if method in ("PATCH", "POST") else None, {}))[0] == 401
    assert len(rig.neighbours.calls) == calls
