"""What the listener takes for one request, and what it refuses. Every case goes over a socket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio
import uvicorn
from http_listener_rig import Listener, listening
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from wireroom_common.runtime.http_limits import HttpLimits

HOST = b"Host: a\r\n"
POST = b"POST / HTTP/1.1\r\n" + HOST
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
GET = b"GET / HTTP/1.1\r\n" + HOST

REFUSED: dict[str, tuple[bytes, int, str]] = {
    "length and coding": (POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400, "request_malformed"),
    "coding and length": (POST + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n", 400, "request_malformed"),
    "coding gzip": (POST + b"Transfer-Encoding: gzip\r\n\r\n0\r\n\r\n", 501, "transfer_coding_unsupported"),
    "coding gzip, chunked": (POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501, "transfer_coding_unsupported"),
    "coding chunked, chunked": (POST + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n", 400, "request_malformed"),
    "coding twice": (
        POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400, "request_malformed"),
    "coding xchunked": (POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 501, "transfer_coding_unsupported"),
    "coding with VT": (POST + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n", 400, "request_malformed"),
    "coding identity": (POST + b"Transfer-Encoding: identity\r\n\r\n", 501, "transfer_coding_unsupported"),
    "coding in 1.0": (b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400, "framing_invalid"),
    "length twice": (POST + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\naa", 400, "request_malformed"),
    "same length twice": (POST + b"Content-Length: 1\r\nContent-Length: 1\r\n\r\na", 400, "request_malformed"),
    "list of lengths": (POST + b"Content-Length: 1, 1\r\n\r\na", 400, "request_malformed"),
    "length with plus": (POST + b"Content-Length: +1\r\n\r\na", 400, "request_malformed"),
    "negative length": (POST + b"Content-Length: -1\r\n\r\na", 400, "request_malformed"),
    "length of 70 bits": (POST + b"Content-Length: 999999999999999999999\r\n\r\na", 400, "request_malformed"),
    "no length": (POST + b"Content-Length: \r\n\r\n", 400, "request_malformed"),
    "chunk size zz": (CHUNKED + b"zz\r\n\r\n", 400, "request_malformed"),
    "chunk size 0x1": (CHUNKED + b"0x1\r\na\r\n0\r\n\r\n", 400, "request_malformed"),
    "chunk size of 68 bits": (CHUNKED + b"fffffffffffffffff\r\na\r\n0\r\n\r\n", 400, "request_malformed"),
    "chunk ends by LF": (CHUNKED + b"1\na\n0\n\n", 400, "request_malformed"),
    "chunk is longer": (CHUNKED + b"1\r\nab\r\n0\r\n\r\n", 400, "request_malformed"),
    "chunk size with space": (CHUNKED + b"1 \r\na\r\n0\r\n\r\n", 400, "request_malformed"),
    "chunk extension with LF": (CHUNKED + b"1;a\nb\r\na\r\n0\r\n\r\n", 400, "request_malformed"),
    "folded field": (GET + b"X-A: b\r\n c\r\n\r\n", 400, "request_malformed"),
    "space before the first field": (b"GET / HTTP/1.1\r\n X-A: b\r\n" + HOST + b"\r\n", 400, "request_malformed"),
    "bare LF": (b"GET / HTTP/1.1\nHost: a\n\n", 400, "request_malformed"),
    "bare CR": (GET + b"X: y\rZ: q\r\n\r\n", 400, "request_malformed"),
    "NUL": (GET + b"X: y\0z\r\n\r\n", 400, "request_malformed"),
    "control character": (GET + b"X: y\x01z\r\n\r\n", 400, "request_malformed"),
    "DEL": (GET + b"X: y\x7fz\r\n\r\n", 400, "request_malformed"),
    "space after a name": (GET + b"X : y\r\n\r\n", 400, "request_malformed"),
    "no name": (GET + b": y\r\n\r\n", 400, "request_malformed"),
    "no host": (b"GET / HTTP/1.1\r\n\r\n", 400, "host_invalid"),
    "two hosts": (GET + HOST + b"\r\n", 400, "host_invalid"),
    "host with user": (b"GET / HTTP/1.1\r\nHost: u@a\r\n\r\n", 400, "host_invalid"),
    "host with space": (b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400, "host_invalid"),
    "host with path": (b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", 400, "host_invalid"),
    "host with comma": (b"GET / HTTP/1.1\r\nHost: a,b\r\n\r\n", 400, "host_invalid"),
    "address of another host": (b"GET http://evil/x HTTP/1.1\r\nHost: a\r\n\r\n", 400, "host_mismatch"),
    "address with user": (b"GET http://u@a/x HTTP/1.1\r\nHost: a\r\n\r\n", 400, "host_mismatch"),
    "address without path": (b"GET http://a HTTP/1.1\r\nHost: a\r\n\r\n", 400, "target_invalid"),
    "asterisk": (b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", 400, "target_invalid"),
    "CONNECT": (b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n", 405, "method_not_allowed"),
    "method FOO": (b"FOO / HTTP/1.1\r\nHost: a\r\n\r\n", 400, "request_malformed"),
    "HTTP/2.0": (b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505, "http_version_unsupported"),
    "HTTP/0.9": (b"GET /\r\n\r\n", 505, "http_version_unsupported"),
    "HTTP/1.2": (b"GET / HTTP/1.2\r\nHost: a\r\n\r\n", 400, "request_malformed"),
    "HTTP/2 preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, "request_malformed"),
    "space in the address": (b"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", 400, "request_malformed"),
    "tab for space": (b"GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n", 400, "request_malformed"),
    "byte above ASCII in the address": (b"GET /\xff HTTP/1.1\r\nHost: a\r\n\r\n", 400, "request_malformed"),
    "TLS on the plain port": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(40), 400, "request_malformed"),
    "other protocol with a body": (
        POST + b"Content-Length: 3\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\nabc", 400, "upgrade_unsupported"),
    "101 fields": (GET + b"X: y\r\n" * 100 + b"\r\n", 431, "header_fields_too_large"),
    "fields of 33 KB": (GET + b"X: " + b"y" * 33_000 + b"\r\n\r\n", 431, "header_fields_too_large"),
    "one endless field": (GET + b"X: " + b"y" * 700_000, 431, "header_fields_too_large"),
    "one endless name": (GET + b"X" * 700_000, 431, "header_fields_too_large"),
    "address of 9 KB": (b"GET /" + b"a" * 9_000 + b" HTTP/1.1\r\n" + HOST + b"\r\n", 414, "target_too_long"),
    "endless address": (b"GET /" + b"a" * 700_000, 414, "target_too_long"),
    "endless chunk extension": (CHUNKED + b"1;" + b"a" * 700_000, 400, "framing_invalid"),
}  # fmt: skip

TAKEN: dict[str, tuple[bytes, str]] = {
    "plain": (GET + b"\r\n", ""),
    "99 fields": (GET + b"X: y\r\n" * 98 + b"\r\n", ""),
    "chunked": (CHUNKED + b"1\r\na\r\n2\r\nbc\r\n0\r\n\r\n", "abc"),
    "chunked in capitals": (POST + b"TRANSFER-ENCODING: Chunked\r\n\r\n1\r\na\r\n0\r\n\r\n", "a"),
    "chunk extension": (CHUNKED + b"1;a=b\r\na\r\n0\r\n\r\n", "a"),
    "many small chunks": (CHUNKED + b"1\r\na\r\n" * 50_000 + b"0\r\n\r\n", "a" * 50_000),
    "length": (POST + b"Content-Length: 3\r\n\r\nabc", "abc"),
    "own address": (b"GET http://A:80/x?y HTTP/1.1\r\nHost: a:80\r\n\r\n", ""),
    "IPv6 host": (b"GET / HTTP/1.1\r\nHost: [::1]:8000\r\n\r\n", ""),
    "line ends before": (b"\r\n\r\n" + GET + b"\r\n", ""),
    "high bytes in a value": (GET + b"X: y\xffz\r\n\r\n", ""),
    "address of 8 KB": (b"GET /" + b"a" * 8_000 + b" HTTP/1.1\r\n" + HOST + b"\r\n", ""),
}


@pytest_asyncio.fixture
async def listener(tmp_path: Path) -> AsyncIterator[Listener]:
    async with listening(tmp_path) as started:
        yield started


def test_the_library_is_the_one_whose_insides_the_guard_builds_on() -> None:
    # A new minor release: read its httptools_impl against http_guard, then change this.
    assert uvicorn.__version__.startswith("0.54.")
    assert {"on_header", "on_headers_complete", "on_body", "_start_asgi_task", "_unset_keepalive_if_required"} <= set(
        vars(HttpToolsProtocol)
    )
    assert {"run_asgi", "send", "receive"} <= set(vars(RequestResponseCycle))


async def test_requests_that_are_not_exactly_one_are_refused(listener: Listener) -> None:
    wrong = {}
    for case, (data, status, code) in REFUSED.items():
        refused, served, cut = len(listener.app.refused), len(listener.app.served), listener.cut(code)
        answer, usable = await listener.ask(data)
        seen = (answer.status, answer.json()["code"], answer.headers["connection"], usable, listener.cut(code) - cut)
        # A body that turns out to be none was begun to be served; nothing else was.
        late = case.startswith(("chunk", "endless chunk"))
        if seen != (status, code, "close", False, 1) or len(listener.app.refused) - refused != 1:
            wrong[case] = seen
        if len(listener.app.served) - served > late:
            wrong[case] = (*seen, "served")
    assert wrong == {}


async def test_requests_that_are_unusual_but_sound_are_served(listener: Listener) -> None:
    wrong = {}
    for case, (data, body) in TAKEN.items():
        answer, usable = await listener.ask(data)
        if answer.status != 200 or answer.json()["body"] != body or not usable:
            wrong[case] = (answer, usable)
    assert wrong == {}
    assert listener.app.refused == []


async def test_requests_refused_byte_by_byte_are_refused_alike(listener: Listener) -> None:
    wrong = {}
    for case, (data, status, code) in REFUSED.items():
        if len(data) > 1_000:
            continue
        connection = await listener.connect()
        before = len(listener.app.refused)
        for byte in data:
            if len(listener.app.refused) > before:
                break
            await connection.send(bytes([byte]))
        answer = await connection.answer()
        if (answer.status, answer.json()["code"]) != (status, code):
            wrong[case] = answer
        connection.close()
    assert wrong == {}


async def test_trailers_are_no_header_fields(listener: Listener) -> None:
    answer, usable = await listener.ask(CHUNKED + b"1\r\na\r\n0\r\nAuthorization: Bearer x\r\nX-Forwarded-For: 1.2.3.4\r\n\r\n")
    assert answer.status == 200
    assert {name for name, _ in answer.json()["headers"]} == {"host", "transfer-encoding"}
    assert usable


async def test_what_follows_an_upgrade_that_is_not_made_is_no_request(listener: Listener) -> None:
    connection = await listener.connect()
    await connection.send(GET + b"Connection: upgrade\r\nUpgrade: h2c\r\n\r\nGET /hidden HTTP/1.1\r\nHost: a\r\n\r\n")
    answer = await connection.answer()
    assert answer.status == 200
    assert answer.headers["connection"] == "close"
    assert await connection.ended()
    assert listener.app.served == ["/"]


async def test_a_malformed_request_behind_a_sound_one_does_not_disturb_its_answer(listener: Listener) -> None:
    connection = await listener.connect()
    await connection.send(b"GET /wait HTTP/1.1\r\nHost: a\r\n\r\nFOO / HTTP/1.1\r\n\r\n")
    listener.app.go.set()
    answer = await connection.answer()
    assert (answer.status, answer.json()["path"]) == (200, "/wait")
    assert await connection.ended()


async def test_pipelined_requests_are_answered_in_order_up_to_a_number(tmp_path: Path) -> None:
    async with listening(tmp_path, limits=HttpLimits(pipelined=4)) as listener:
        connection = await listener.connect()
        await connection.send(b"".join(b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n" % number for number in range(20)))
        paths = [(await connection.answer()).json()["path"] for _ in range(5)]
        assert paths == [f"/{number}" for number in range(5)]
        assert await connection.ended()
        assert len(listener.app.served) == 5


async def test_the_answer_is_read_by_a_client_that_goes_on_sending(listener: Listener) -> None:
    connection = await listener.connect()
    await connection.send(POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n" + bytes(500_000))
    assert (await connection.answer()).status == 501
    connection.close()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    data=st.lists(
        st.sampled_from(
            [b"GET", b"POST", b" ", b"/", b"*", b"http://a/", b"HTTP/1.1", b"HTTP/1.0", b"\r\n", b"\n", b"\r", b"Host: a", b"\0",
             b"Transfer-Encoding: chunked", b"Content-Length: 3", b"Content-Length: 0", b"abc", b"0", b"5", b";", b"\t", b"\xff",
             b"Connection: upgrade", b"Upgrade: h2c", b"Expect: 100-continue", b"\r\n\r\n", GET, CHUNKED]
        ),
        max_size=30,
    )
)  # fmt: skip
def test_whatever_arrives_is_answered_by_http_or_ends(tmp_path: Path, data: list[bytes]) -> None:
    async def check() -> bytes:
        async with listening(tmp_path, limits=HttpLimits(head_seconds=0.4, body_grace_seconds=0.4)) as listener:
            connection = await listener.connect()
            await connection.send(b"".join(data))
            connection.writer.write_eof()
            received = await connection.reader.read()
            connection.close()
        return received

    for answer in asyncio.run(check()).split(b"HTTP/1.1 ")[1:]:
        assert answer[:3] in {b"200", b"100", b"400", b"405", b"408", b"415", b"501", b"505"}
