from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from gateway_rig import Rig, running

from wireroom_common.testing import eventually

LARGE = 26_000_000


def write_all_then_read(url: str, *pieces: bytes) -> tuple[int, dict[str, str], bytes]:
    """What a client sees that looks at the answer only after it has sent everything. Raises if the connection is reset."""
    address = urlsplit(url)
    with socket.create_connection((address.hostname or "", address.port or 0), timeout=30) as connection:
        for piece in pieces:
            connection.sendall(piece)
        received = b""
        while data := connection.recv(65536):
            received += data
    head, _, body = received.partition(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
    return int(lines[0].split()[1]), headers, body


def chunked(size: int, chunk: int = 1_000_000) -> Iterator[bytes]:
    for _ in range(size // chunk):
        yield b"%x\r\n" % chunk + b"x" * chunk + b"\r\n"
    yield b"0\r\n\r\n"


@pytest.mark.parametrize(
    ("path", "content_type", "signed_in", "status", "code"),
    [
        ("/api/v1/documents", "multipart/form-data; boundary=b", True, 413, "document_too_large"),
        ("/api/v1/feeds", "application/json", True, 413, "body_too_large"),
        ("/v1/chat/completions", "application/json", True, 413, "body_too_large"),
        ("/nothing", "application/json", True, 413, "body_too_large"),
    ],
)
async def test_who_sends_26_megabytes_before_reading_sees_the_413(
    rig: Rig, path: str, content_type: str, *, signed_in: bool, status: int, code: str
) -> None:
    headers = rig.bearer("docs:write", "feeds:manage", "llm:invoke") if signed_in else {}
    head = rig.head("POST", path, content_type=content_type, content_length=str(LARGE), **headers)
    answered, answer_headers, body = await asyncio.to_thread(write_all_then_read, rig.url, head, b"x" * LARGE)
    assert answered == status
    assert answer_headers["connection"] == "close"
    assert int(answer_headers["content-length"]) == len(body)
    document = json.loads(body)
    assert document.get("code", document.get("error", {}).get("code")) == code
    assert rig.neighbours.called("UploadDocument") == []


@pytest.mark.parametrize(
    ("headers", "content_type", "status"),
    [
        ([], "multipart/form-data; boundary=b", 401),
        (["news:read"], "multipart/form-data; boundary=b", 403),
        (["docs:write"], "text/plain", 415),
        (["docs:write"], "multipart/form-data; boundary=b", 400),
    ],
)
@pytest.mark.parametrize("size", [200, 100_000, 24_000_000])
async def test_early_refusals_of_uploads_reach_a_client_that_is_still_sending(
    rig: Rig, headers: list[str], content_type: str, status: int, size: int
) -> None:
    bearer = rig.bearer(*headers) if headers else {}
    head = rig.head(
        "POST", "/api/v1/documents", content_type=content_type, content_length=str(size), connection="close", **bearer
    )
    answered, _, body = await asyncio.to_thread(write_all_then_read, rig.url, head, b"x" * size)
    assert answered == status
    assert json.loads(body)["status"] == status


async def test_a_rate_limited_upload_reaches_a_client_that_is_still_sending(work_dir: Path, clean_valkey_url: str) -> None:
    async with running(work_dir, redis_url=clean_valkey_url, limit_overrides={"upload.ip": 1}) as rig:
        head = rig.head("POST", "/api/v1/documents", content_length="5000000", connection="close")
        statuses = [(await asyncio.to_thread(write_all_then_read, rig.url, head, b"x" * 5_000_000))[0] for _ in range(2)]
        assert statuses == [401, 429]


async def test_a_body_without_announced_length_is_cut_off_at_the_limit(rig: Rig) -> None:
    for size, status in ((900_000, 400), (5_000_000, 413)):
        head = rig.head("POST", "/api/v1/feeds", content_type="application/json", transfer_encoding="chunked", connection="close",
                        **rig.bearer("feeds:manage"))  # fmt: skip
        answered, _, body = await asyncio.to_thread(write_all_then_read, rig.url, head, *chunked(size, 100_000))
        assert answered == status
        assert json.loads(body)["status"] == status


@pytest.mark.parametrize("over", [0, 1])
async def test_the_limit_is_exact(rig: Rig, over: int) -> None:
    prefix, suffix = b'{"url":"', b'"}'
    body = prefix + b"x" * (1_000_000 - len(prefix) - len(suffix) + over) + suffix
    headers = {**rig.bearer("feeds:manage"), "content-type": "application/json"}
    async with rig.session.post("/api/v1/feeds", data=body, headers=headers) as reply:
        assert reply.status == (413 if over else 422)

    async def pieces() -> AsyncIterator[bytes]:
        yield body

    async with rig.session.post("/api/v1/feeds", data=pieces(), headers=headers) as reply:
        assert reply.status == (413 if over else 422)


async def test_a_small_refused_body_does_not_cost_the_connection(rig: Rig) -> None:
    reader, writer = await rig.connect()
    for _ in range(2):
        writer.write(rig.head("POST", "/api/v1/feeds", content_type="application/json", content_length="20") + b"x" * 20)
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        assert head.startswith("http/1.1 401")
        assert "connection: close" not in head
        length = next(int(line.split(":")[1]) for line in head.split("\r\n") if line.startswith("content-length"))
        await reader.readexactly(length)
    writer.close()


async def test_who_asks_before_sending_gets_the_refusal_at_once(rig: Rig) -> None:
    reader, writer = await rig.connect()
    writer.write(
        rig.head("POST", "/api/v1/documents", content_length=str(LARGE), expect="100-continue", **rig.bearer("docs:write"))
    )
    assert (await reader.readline()).startswith(b"HTTP/1.1 413")
    # The connection ends without a byte of the body, and without waiting for one.
    async with asyncio.timeout(5):
        assert b"document_too_large" in await reader.read()
    writer.close()


async def test_a_client_that_leaves_while_its_rest_is_discarded_ends_the_request(rig: Rig) -> None:
    reader, writer = await rig.connect()
    writer.write(rig.head("POST", "/api/v1/feeds", content_length="50000000", **rig.bearer("feeds:manage")) + b"x" * 1000)
    assert (await reader.readline()).startswith(b"HTTP/1.1 413")
    writer.close()

    async def idle() -> bool:
        async with rig.session.get("/metrics") as reply:
            # This request itself is one.
            return "wireroom_gateway_requests_in_progress 1.0" in await reply.text()

    await eventually(idle, within=5)
