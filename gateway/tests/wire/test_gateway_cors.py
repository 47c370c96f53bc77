"""Cross-origin requests: who may, who may not, and what each is told."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from gateway_rig import Rig, running

from wireroom_gateway.pipeline.cors import check_origins

APP = "https://app.example.com"


@pytest_asyncio.fixture
async def shared(work_dir: Path) -> AsyncIterator[Rig]:
    """A gateway that a page may call."""
    async with running(work_dir, cors_origins=(APP, "http://localhost:3000")) as rig:
        yield rig


@pytest.mark.parametrize(
    "origin",
    [
        "null", "https://evil.com", "https://app.example.com.evil.com", "https://evil-app.example.com", "https://app.example.com:444",
        "http://app.example.com", "https://APP.example.com", "https://app.example.com/", "https://app.example.com@evil.com", "*", "",
    ],
)  # fmt: skip
async def test_other_origins_get_a_problem_for_a_preflight_and_no_leave_otherwise(shared: Rig, origin: str) -> None:
    ask = {"origin": origin, "access-control-request-method": "POST"}
    async with shared.session.options("/v1/chat/completions", headers=ask) as reply:
        assert reply.status == 403
        assert (await reply.json(content_type=None))["error"]["code"] == "cors_refused"
        assert "access-control-allow-origin" not in reply.headers
        assert "Origin" in reply.headers["vary"]
        assert reply.headers["x-content-type-options"] == "nosniff"
    async with shared.session.options("/info", headers=ask) as reply:
        assert reply.content_type == "application/problem+json"
        assert (await reply.json(content_type=None))["code"] == "cors_refused"
    async with shared.session.get("/info", headers={"origin": origin}) as reply:
        assert "access-control-allow-origin" not in reply.headers
        assert "Origin" in reply.headers["vary"]


@pytest.mark.parametrize("origin", [APP, "http://localhost:3000"])
async def test_origins_of_the_list_may_call_without_cookies(shared: Rig, origin: str) -> None:
    ask = {
        "origin": origin,
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization, content-type",
    }
    async with shared.session.options("/v1/chat/completions", headers=ask) as reply:
        assert reply.status == 200
        assert reply.headers["access-control-allow-origin"] == origin
        assert "Origin" in reply.headers["vary"]
        assert "access-control-allow-credentials" not in reply.headers
    for path in ("/info", "/nothing", "/api/v1/documents"):
        async with shared.session.get(path, headers={"origin": origin}) as reply:
            assert reply.headers["access-control-allow-origin"] == origin
            assert "Origin" in reply.headers["vary"]
            assert "access-control-allow-credentials" not in reply.headers


@pytest.mark.parametrize(
    "ask", [{"access-control-request-method": "TRACE"}, {"access-control-request-headers": "x-internal-token"}]
)
async def test_methods_and_fields_outside_the_list_are_refused(shared: Rig, ask: dict[str, str]) -> None:
    headers = {"origin": APP, "access-control-request-method": "GET", **ask}
    async with shared.session.options("/info", headers=headers) as reply:
        assert reply.status == 403
        assert (await reply.json(content_type=None))["code"] == "cors_refused"


@pytest.mark.parametrize(
    "origin",
    ["*", "null", "https://*.example.com", "https://app.example.com/", "app.example.com", "https://App.example.com", "ftp://a", "",
     "https://a:b", "https://u@a", "http://app.example.com", "http://localhost.evil.com"],
)  # fmt: skip
def test_origins_that_are_not_exact_or_not_encrypted_stop_the_start(origin: str) -> None:
    with pytest.raises(ValueError, match="cors_origins"):
        check_origins((origin,), plain_http=False)


def test_plain_http_is_for_this_machine_or_by_decision() -> None:
    check_origins(("http://localhost:3000", "http://127.0.0.1", "http://[::1]:80", APP), plain_http=False)
    check_origins(("http://dev.internal:3000",), plain_http=True)
