from __future__ import annotations

import re
import socket
from pathlib import Path

import aiohttp
import pytest
from gateway_rig import Rig, running

from wireroom_gateway.pipeline import ORDER, assemble
from wireroom_gateway.pipeline.cors import Cors


def test_stages_stand_in_the_order_that_their_guarantees_need() -> None:
    assert [stage.__name__ for stage in ORDER] == [
        "UnreadBody",
        "RequestId",
        "Tracing",
        "AccessLog",
        "Measurement",
        "SecurityHeaders",
        "Compression",
        "Cors",
        "Errors",
        "Refusals",
        "BlockedAddresses",
        "Hosts",
        "BodyLimit",
        "Authentication",
        "RateLimits",
        "Threats",
        "Permissions",
        "Idempotency",
    ]


def test_options_for_something_that_is_no_stage_stop_the_start() -> None:
    with pytest.raises(ValueError, match="not stages"):
        assemble(lambda *_: None, {str: {}})  # type: ignore[arg-type, return-value]


@pytest.mark.parametrize(
    ("given", "kept"), [("abcdefgh-1234.X_y", True), ("short", False), ("a" * 65, False), ("bad id here", False)]
)
async def test_a_sane_request_id_is_taken_over_and_others_are_replaced(rig: Rig, given: str, kept: bool) -> None:  # noqa: FBT001
    async with rig.session.get("/health/detailed", headers={"x-request-id": given, **rig.bearer("monitoring:read")}) as reply:
        answered = reply.headers["x-request-id"]
    assert (answered == given) is kept
    assert re.fullmatch(r"[A-Za-z0-9._-]{8,64}", answered)
    assert {call.request_id for call in rig.neighbours.called("GetStatus")} == {answered}


async def test_refusals_carry_request_id_and_security_headers_too(rig: Rig) -> None:
    for path, status in (("/nothing", 404), ("/api/v1/documents", 401), ("/info", 200)):
        async with rig.session.get(path) as reply:
            assert reply.status == status
            assert reply.headers["x-request-id"]
            assert reply.headers["x-content-type-options"] == "nosniff"
            assert reply.headers["x-frame-options"] == "DENY"
            assert reply.headers["x-xss-protection"] == "0"
            assert reply.headers["referrer-policy"] == "no-referrer"
            assert "default-src 'none'" in reply.headers["content-security-policy"]
            assert reply.headers["cache-control"] == "no-store"
            assert "strict-transport-security" not in reply.headers
            assert "server" not in reply.headers


async def test_hsts_is_said_over_https_only(work_dir: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    async with running(work_dir, tls_port=port) as rig, aiohttp.ClientSession() as session:
        async with session.get(f"{rig.urls[1]}/info", ssl=False) as reply:
            assert reply.headers["strict-transport-security"].startswith("max-age=31536000")
        async with session.get(f"{rig.urls[0]}/info") as reply:
            assert "strict-transport-security" not in reply.headers


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("api.example.com", 200),
        ("API.example.com:8443", 200),
        ("a.b.wild.org", 200),
        ("[::1]:8000", 200),
        ("wild.org", 400),
        ("evilwild.org", 400),
        ("evil.com", 400),
        ("api.example.com.evil.com", 400),
        ("", 400),
    ],
)
async def test_hosts_outside_the_list_get_nothing(work_dir: Path, host: str, status: int) -> None:
    async with running(work_dir, allowed_hosts=("api.example.com", "*.wild.org", "[::1]")) as rig:
        async with rig.session.get("/info", headers={"host": host}) as reply:
            assert reply.status == status
            if status == 400:
                assert (await reply.json(content_type=None))["code"] == "host_not_allowed"
        async with rig.session.get("/health/live", headers={"host": host}) as reply:
            assert reply.status == 200


async def test_two_host_headers_are_refused(rig: Rig) -> None:
    reader, writer = await rig.connect()
    writer.write(rig.head("GET", "/info", connection="close").replace(b"\r\n\r\n", b"\r\nhost: localhost\r\n\r\n"))
    assert (await reader.readline()).startswith(b"HTTP/1.1 400")
    writer.close()


async def test_cross_origin_requests_come_from_the_list_only(work_dir: Path) -> None:
    async with running(work_dir, cors_origins=("https://app.example.com",)) as rig:
        ask = {"access-control-request-method": "POST", "access-control-request-headers": "authorization"}
        for origin, allowed in (("https://app.example.com", True), ("https://evil.com", False), ("null", False)):
            async with rig.session.options("/v1/chat/completions", headers={"origin": origin, **ask}) as reply:
                assert (reply.headers.get("access-control-allow-origin") == origin) is allowed
                assert reply.status == (200 if allowed else 403)
            # A refusal must be readable for the page, too.
            async with rig.session.get("/api/v1/documents", headers={"origin": origin}) as reply:
                assert reply.status == 401
                assert (reply.headers.get("access-control-allow-origin") == origin) is allowed
                assert "access-control-allow-credentials" not in reply.headers


async def test_without_origins_no_cors_header_is_sent(rig: Rig) -> None:
    async with rig.session.get("/info", headers={"origin": "https://app.example.com"}) as reply:
        assert not [name for name in reply.headers if name.lower().startswith("access-control")]


@pytest.mark.parametrize("origin", ["*", "null", "app.example.com"])
def test_origins_that_are_none_stop_the_start(origin: str) -> None:
    with pytest.raises(ValueError, match="cors_origins"):
        Cors(lambda *_: None, origins=(origin,))  # type: ignore[arg-type, return-value]


async def test_answers_above_one_kilobyte_are_compressed(rig: Rig) -> None:
    async with aiohttp.ClientSession(auto_decompress=False) as session:
        async with session.get(f"{rig.url}/openapi.json", headers={"accept-encoding": "gzip"}) as reply:
            assert reply.headers["content-encoding"] == "gzip"
            assert (await reply.read())[:2] == b"\x1f\x8b"
        async with session.get(f"{rig.url}/info", headers={"accept-encoding": "gzip"}) as reply:
            assert "content-encoding" not in reply.headers


async def test_a_process_that_was_told_to_stop_is_alive_but_not_ready(rig: Rig) -> None:
    async def statuses() -> dict[str, int]:
        found = {}
        for path in ("/health/ready", "/ready", "/health", "/health/live"):
            async with rig.session.get(path) as reply:
                found[path] = reply.status
        return found

    assert set((await statuses()).values()) == {200}
    rig.infra.told_to_stop = True
    assert await statuses() == {"/health/ready": 503, "/ready": 503, "/health": 503, "/health/live": 200}
    async with rig.session.get("/info") as reply:
        assert reply.status == 200


async def test_metrics_count_by_route_template(rig: Rig) -> None:
    for number in range(3):
        async with rig.session.get(f"/api/v1/documents/{number}") as reply:
            assert reply.status == 401
    async with rig.session.get("/metrics") as reply:
        text = await reply.text()
    assert 'wireroom_gateway_requests_total{method="GET",route="/api/v1/documents/{id}",status="4xx"} 3.0' in text


async def test_metrics_want_their_token(work_dir: Path) -> None:
    async with running(work_dir, metrics_token="s3cret") as rig:
        for headers, status in (({}, 401), ({"authorization": "Bearer wrong"}, 401), ({"authorization": "Bearer s3cret"}, 200)):
            async with rig.session.get("/metrics", headers=headers) as reply:
                assert reply.status == status
