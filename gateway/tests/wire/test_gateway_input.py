"""Input is refused for one documented reason before it has an effect: repeated members, sizes, encodings, types, characters."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from gateway_rig import Rig
from hypothesis import given
from hypothesis import strategies as st

from wireroom_gateway import strict_json
from wireroom_gateway.problems import HttpProblemError

FEEDS = "/api/v1/feeds"


async def send(rig: Rig, body: Any, path: str = FEEDS, **headers: str) -> tuple[int, str]:
    sent = {**rig.bearer("feeds:manage", "docs:write", "apikeys:manage:own"), "content-type": "application/json", **headers}
    async with rig.session.post(path, data=body, headers=sent) as reply:
        document = await reply.json(content_type=None)
        return reply.status, document.get("code", "")


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b'{"url":"https://a.example/","url":"https://b.example/"}', 400, "json_duplicate_member"),
        (b'{"url":"https://a.example/","\\u0075rl":"https://b.example/"}', 400, "json_duplicate_member"),
        (b'{"url":{"a":1,"a":1}}', 400, "json_duplicate_member"),
        (b"[" * 70 + b"]" * 70, 400, "json_too_deep"),
        (b'{"url":' + b'{"a":' * 70 + b"1" + b"}" * 71, 400, "json_too_deep"),
        (b"[" * 400_000, 400, "json_malformed"),
        (b"[" + b"0," * 10_001 + b"0]", 400, "json_too_many_values"),
        (b"{" + b",".join(b'"a%d":1' % index for index in range(10_001)) + b"}", 400, "json_too_many_values"),
        (b'{"url":NaN}', 400, "json_malformed"),
        (b'{"url":"\\ud800"}', 400, "json_malformed"),
        (b'\xef\xbb\xbf{"url":"x"}', 400, "json_malformed"),
        (b'{"url":"x"}//', 400, "json_malformed"),
        (b'{"url":"x\x00"}', 400, "json_malformed"),
        (b'{"url":"x\\u0000"}', 422, "request_invalid"),
        (b'{"url":1}', 422, "request_invalid"),
        (b'{"url":"x","more":1}', 422, "request_invalid"),
        (b"{}", 422, "request_invalid"),
        (b"", 422, "request_invalid"),
        (b"null", 422, "request_invalid"),
        (b'"x"', 422, "request_invalid"),
    ],
    ids=lambda value: value[:24].decode("latin-1") if isinstance(value, bytes) else None,
)
async def test_bodies_that_are_refused(rig: Rig, body: bytes, status: int, code: str) -> None:
    assert await send(rig, body) == (status, code)
    assert rig.neighbours.called("AddFeed") == []


@pytest.mark.parametrize("seconds", [b"true", b'"1"', b"1.0", b"-1", b"1e3", b"99999999999999999999"])
async def test_a_number_is_a_number(rig: Rig, seconds: bytes) -> None:
    assert await send(rig, b'{"name":"n","ttl_seconds":' + seconds + b"}", "/auth/api-keys") == (422, "request_invalid")
    assert rig.neighbours.called("CreateKey") == []


@pytest.mark.parametrize("encoding", ["gzip", "br", "deflate", "zstd", "x-unknown", "gzip, identity"])
async def test_compressed_bodies_are_refused_before_they_are_read(rig: Rig, encoding: str) -> None:
    bomb = gzip.compress(b" " * 5_000_000)
    assert await send(rig, bomb, **{"content-encoding": encoding}) == (415, "content_encoding_unsupported")
    assert await send(rig, bomb, "/v1/chat/completions", **{"content-encoding": encoding}) == (415, "")
    assert rig.neighbours.called("Complete") == []
    assert (await send(rig, b'{"url":"https://a.example/"}', **{"content-encoding": "identity"}))[0] == 201


@pytest.mark.parametrize(
    "content_type", ["", "text/plain", "application/xml", "application/x-www-form-urlencoded", "application/json; charset=utf-16"]
)
async def test_the_content_type_is_enforced(rig: Rig, content_type: str) -> None:
    assert (await send(rig, b'{"url":"https://a.example/"}', **{"content-type": content_type}))[0] == 415


async def test_the_size_limit_holds_for_bodies_without_a_length_before_they_have_ended(rig: Rig) -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while True:
            sent += 100_000
            yield b" " * 100_000
            await asyncio.sleep(0)

    head = rig.head("POST", FEEDS, content_type="application/json", transfer_encoding="chunked", connection="close",
                    **rig.bearer("feeds:manage"))  # fmt: skip
    reader, writer = await rig.connect()
    writer.write(head)
    answer = asyncio.create_task(reader.readline())
    async for piece in endless():
        writer.write(b"%x\r\n" % len(piece) + piece + b"\r\n")
        await writer.drain()
        if answer.done() or sent > 40_000_000:
            break
    assert b" 413 " in await asyncio.wait_for(answer, 5)
    assert sent < 30_000_000
    writer.close()


def multipart(*parts: bytes) -> bytes:
    return b"".join(b"--b\r\n" + part + b"\r\n" for part in parts) + b"--b--\r\n"


FILE = b'Content-Disposition: form-data; name="file"; filename="a.txt"\r\n\r\nx'


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (multipart(FILE, FILE), 422),
        (multipart(b'Content-Disposition: form-data; name="other"\r\n\r\nx', FILE), 422),
        (multipart(*[FILE] * 10_000), 422),
        (multipart(b"X-H: 1\r\n" * 100 + FILE), 400),
        (multipart(b"X-H: " + b"x" * 60_000 + b"\r\n" + FILE), 400),
        (multipart(b"X" * 60_000 + b": x\r\n" + FILE), 400),
        (multipart(FILE)[:-6], 400),
        (b"", 400),
        (multipart(), 422),
    ],
    ids=["two files", "unknown field", "10,000 parts", "100 headers", "long value", "long name", "cut off", "empty", "no part"],
)
async def test_forms_that_are_refused(rig: Rig, body: bytes, status: int) -> None:
    answered, _ = await send(rig, body, "/api/v1/documents", **{"content-type": "multipart/form-data; boundary=b"})
    assert answered == status


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(st.characters(codec="utf-8"), max_size=8),
        lambda inner: (
            st.lists(inner, max_size=4) | st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=4), inner, max_size=4)
        ),
        max_leaves=20,
    )
)
def test_what_is_written_once_is_read_as_it_was_written(value: Any) -> None:
    assert strict_json.parse_members(json.dumps(value).encode()) == value


@given(st.text(st.characters(codec="utf-8"), max_size=8), st.integers(0, 5))
def test_a_repeated_member_is_found_at_any_depth(name: str, depth: int) -> None:
    body = "[" * depth + "{" + f"{json.dumps(name)}:1,{json.dumps(name, ensure_ascii=False)}:2" + "}" + "]" * depth
    with pytest.raises(HttpProblemError) as refused:
        strict_json.parse_members(body.encode())
    assert refused.value.problem.code == "json_duplicate_member"


async def test_of_a_repeated_query_parameter_the_last_one_counts(rig: Rig) -> None:
    async with rig.session.get(f"{FEEDS}?page_size=1&page_size=7", headers=rig.bearer("news:read")) as reply:
        assert reply.status == 200
    assert [call.request.page_size for call in rig.neighbours.called("ListFeeds")] == [7]
