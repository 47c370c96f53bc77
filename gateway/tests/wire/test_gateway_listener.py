"""What the listener refuses looks, counts and is logged like any other answer."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from gateway_rig import Rig, running
from structlog.testing import capture_logs

REFUSED: dict[str, tuple[bytes, int, str]] = {
    "no HTTP": (b"\x16\x03\x01 nonsense\r\n\r\n", 400, "request_malformed"),
    "two lengths": (b"POST /auth/login HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\naa", 400,
                    "request_malformed"),
    "length and coding": ((b"POST /auth/login HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n"
                          b"0\r\n\r\n"), 400, "request_malformed"),
    "coding": (b"POST /auth/login HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501,
               "transfer_coding_unsupported"),
    "bad chunk": ((b"POST /auth/login HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n"
                  b"\r\nzz\r\n"), 400, "request_malformed"),
    "many fields": (b"GET /info HTTP/1.1\r\nHost: localhost\r\n" + b"X: y\r\n" * 200 + b"\r\n", 431, "header_fields_too_large"),
    "long address": (b"GET /info?" + b"x" * 9_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", 414, "target_too_long"),
    "other host in the address": (b"GET http://evil.com/info HTTP/1.1\r\nHost: localhost\r\n\r\n", 400, "host_mismatch"),
    "two hosts": (b"GET /info HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n", 400, "host_invalid"),
    "no host": (b"GET /info HTTP/1.1\r\n\r\n", 400, "host_invalid"),
    "CONNECT": (b"CONNECT localhost:443 HTTP/1.1\r\nHost: localhost:443\r\n\r\n", 405, "method_not_allowed"),
    "version": (b"GET /info HTTP/2.0\r\nHost: localhost\r\n\r\n", 505, "http_version_unsupported"),
    "unfinished head": (b"GET /info HTTP/1.1\r\nHost: localh", 408, "request_timeout"),
    "unfinished body": (b"POST /auth/login HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{",
                        408, "body_timeout"),
}  # fmt: skip


async def ask(rig: Rig, data: bytes) -> tuple[int, dict[str, str], bytes]:
    """The one answer to `data`; the connection must end after it."""
    reader, writer = await rig.connect()
    writer.write(data)
    async with asyncio.timeout(10):
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    line, *fields = head.decode().split("\r\n")
    return int(line.split()[1]), {name.lower(): value for name, value in (field.split(": ", 1) for field in fields)}, body


def lines(logs: list[Any], event: str) -> list[Any]:
    return [entry for entry in logs if entry["event"] == event]


@pytest.mark.parametrize("case", REFUSED)
async def test_refusals_are_problem_documents_with_everything_that_goes_with_an_answer(work_dir: Path, case: str) -> None:
    data, status, code = REFUSED[case]
    async with running(work_dir, head_seconds=0.4, slow_body_seconds=0.4) as rig:
        with capture_logs() as logs:
            told, headers, body = await ask(rig, data)
        document = json.loads(body)
        assert (told, document["status"], document["code"]) == (status, status, code)
        assert document["type"] == f"urn:wireroom:problem:{code}"
        assert document["title"] not in ("Error", "Internal Server Error")
        assert document["request_id"] == headers["x-request-id"]
        assert headers["content-type"] == "application/problem+json"
        assert headers["connection"] == "close"
        assert headers["x-content-type-options"] == "nosniff"
        assert "default-src 'none'" in headers["content-security-policy"]
        assert status != 405 or headers["allow"]
        (line,) = [entry for entry in lines(logs, "http_request") if entry["code"] == code]
        assert (line["status"], line["client"]) == (status, "127.0.0.1")
        assert rig.infra.registry.get_sample_value("wireroom_gateway_refused_total", {"code": code}) == 1
        assert rig.neighbours.called("Login") == []


async def test_refusals_below_v1_speak_its_dialect(rig: Rig) -> None:
    status, headers, body = await ask(rig, b"POST /v1/chat/completions HTTP/1.1\r\nHost: a b\r\nContent-Length: 0\r\n\r\n")
    assert status == 400
    assert headers["content-type"] == "application/json"
    assert json.loads(body)["error"]["code"] == "host_invalid"


@pytest.mark.parametrize("address", ["http://localhost/info", "HTTP://LOCALHOST/info"])
async def test_an_address_with_the_host_is_served_when_the_host_is(rig: Rig, address: str) -> None:
    status, _, _ = await ask(rig, f"GET {address} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
    assert status == 200


async def test_an_address_with_a_host_of_its_own_does_not_get_round_the_list(rig: Rig) -> None:
    status, _, body = await ask(rig, b"GET http://evil.com/info HTTP/1.1\r\nHost: evil.com\r\nConnection: close\r\n\r\n")
    assert status == 400
    assert json.loads(body)["code"] == "host_not_allowed"


@pytest.mark.parametrize("method", ["TRACE", "DELETE", "PROPFIND"])
async def test_methods_that_are_not_offered_are_405_and_say_which_are(rig: Rig, method: str) -> None:
    status, headers, body = await ask(rig, rig.head(method, "/info", connection="close"))
    assert status == 405
    assert "GET" in headers["allow"]
    assert json.loads(body)["code"] == "method_not_allowed"


async def test_an_upload_that_stands_still_is_ended(work_dir: Path) -> None:
    async with running(work_dir, slow_body_seconds=0.4) as rig:
        head = rig.head("POST", "/api/v1/documents", content_type="multipart/form-data; boundary=b", content_length="1000000",
                        **rig.bearer("docs:write", "docs:upload", "documents:write"))  # fmt: skip
        with capture_logs() as logs:
            status, _, _ = await ask(
                rig, head + b'--b\r\ncontent-disposition: form-data; name="file"; filename="a.txt"\r\n\r\nsome'
            )
        assert status in (403, 408)
        assert lines(logs, "http_request")


async def test_a_field_that_a_client_smuggles_behind_a_body_is_not_believed(rig: Rig) -> None:
    token = rig.bearer("docs:read")["authorization"]
    body = f"0\r\nauthorization: {token}\r\n\r\n".encode()
    status, _, _ = await ask(rig, rig.head("GET", "/api/v1/documents", transfer_encoding="chunked", connection="close") + body)
    assert status == 401


async def test_the_caps_of_the_settings_hold(work_dir: Path) -> None:
    async with running(work_dir, max_connections_per_client=1) as rig:
        reader, writer = await rig.connect()
        writer.write(rig.head("GET", "/info"))
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        status, headers, body = await ask(rig, b"")
        assert (status, json.loads(body)["code"], headers["retry-after"]) == (503, "too_many_connections", "5")
        writer.close()
