from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path
from typing import Any

import pytest
from gateway_rig import Rig

from wireroom_common.errors import ErrorKind, FieldProblem, WireroomError
from wireroom_gateway import strict_json
from wireroom_gateway.problems import STATUS, HttpProblemError

FEEDS = "/api/v1/feeds"
CHAT = "/v1/chat/completions"
MALFORMED: dict[str, bytes] = {
    "empty": b"",
    "open": b"{",
    "trailing comma": b'{"url": "x",}',
    "two values": b"{} {}",
    "single quotes": b"{'url': 'x'}",
    "comment": b'{"url": "x"} // why',
    "NaN": b'{"url": NaN}',
    "Infinity": b'{"url": -Infinity}',
    "number too large": b'{"interval_seconds": 1e999}',
    "lone surrogate": b'{"url": "\\ud800"}',
    "lone surrogate as member": b'{"\\udc00": 1}',
    "surrogate in UTF-8": b'{"url": "\xed\xa0\x80"}',
    "not UTF-8": b'{"url": "\xff"}',
    "byte order mark": b'\xef\xbb\xbf{"url": "x"}',
    "UTF-16": '{"url": "x"}'.encode("utf-16"),
    "control character": b'{"url": "\x01"}',
    "65 levels": b"[" * 65 + b"]" * 65,
    "65 levels of objects": b'{"a":' * 65 + b"1" + b"}" * 65,
    "100,000 levels": b"[" * 100_000 + b"]" * 100_000,
    "100,000 open": b"[" * 100_000,
}
NOT_FITTING: dict[str, Any] = {
    "list": [],
    "text": "x",
    "null": None,
    "missing": {},
    "other type": {"url": 1},
    "null member": {"url": None},
    "unknown member": {"url": "https://example.com", "extra": 1},
    "too long": {"url": "x" * 3000},
    "NUL": {"url": "https://example.com/\0"},
    "number as text": {"url": "https://example.com", "interval_seconds": "5"},
    "number too large": {"url": "https://example.com", "interval_seconds": 10**19},
    "true as number": {"url": "https://example.com", "interval_seconds": True},
    "printable secret": {"url": {"password": "hunter2"}},
}


async def problem(reply: Any, status: int, code: str | None = None) -> dict[str, Any]:
    """The problem document, checked for its form."""
    assert reply.status == status, await reply.text()
    assert reply.content_type == "application/problem+json"
    document: dict[str, Any] = await reply.json(content_type=None)
    assert set(document) == {"type", "title", "status", "detail", "code", "request_id", "errors"}
    assert document["status"] == status
    assert document["request_id"] == reply.headers["x-request-id"]
    assert document["type"] == f"urn:wireroom:problem:{document['code']}"
    assert document["title"]
    assert document["detail"]
    assert code is None or document["code"] == code
    return document


async def test_unknown_paths_and_methods(rig: Rig) -> None:
    async with rig.session.get("/api/v1/nothing") as reply:
        await problem(reply, 404, "route_not_found")
    async with rig.session.delete("/info") as reply:
        await problem(reply, 405, "method_not_allowed")
        assert reply.headers["allow"] == "GET"
    async with rig.session.request("BREW", "/info") as reply:
        assert 400 <= reply.status < 500
    async with rig.session.get(CHAT) as reply:
        assert reply.status == 405
        assert (await reply.json())["error"]["code"] == "method_not_allowed"


@pytest.mark.parametrize(
    "content_type", ["text/plain", "application/x-www-form-urlencoded", "application/json; charset=latin-1", "json", ""]
)
async def test_bodies_must_say_that_they_are_json(rig: Rig, content_type: str) -> None:
    headers = {**rig.bearer("feeds:manage", "llm:invoke"), "content-type": content_type}
    async with rig.session.post(FEEDS, data=b"{}", headers=headers) as reply:
        await problem(reply, 415, "content_type_unsupported")
        assert reply.headers["accept"] == "application/json"
    async with rig.session.post(CHAT, data=b"{}", headers=headers) as reply:
        assert reply.status == 415
        assert (await reply.json())["error"]["type"] == "invalid_request_error"


async def test_json_in_utf_8_is_taken_however_it_is_written(rig: Rig) -> None:
    for content_type in ("application/json", "Application/JSON; Charset=UTF-8", 'application/json; charset="utf-8"; x=y'):
        headers = {**rig.bearer("feeds:manage"), "content-type": content_type}
        async with rig.session.post(FEEDS, data=b'{"url": "https://example.com"}', headers=headers) as reply:
            assert reply.status == 201


async def test_malformed_json_is_400_on_both_surfaces(rig: Rig) -> None:
    headers = {**rig.bearer("feeds:manage", "llm:invoke"), "content-type": "application/json"}
    wrong = {}
    for name, body in MALFORMED.items():
        async with rig.session.post(FEEDS, data=body, headers=headers) as reply:
            if not (reply.status == 400 or (name == "empty" and reply.status == 422)):
                wrong[name] = (reply.status, await reply.text())
            assert reply.content_type == "application/problem+json"
        async with rig.session.post(CHAT, data=body, headers=headers) as reply:
            if reply.status != 400 or (await reply.json())["error"]["type"] != "invalid_request_error":
                wrong[f"{name} /v1"] = (reply.status, await reply.text())
    assert wrong == {}
    assert rig.neighbours.called("AddFeed") == []
    assert rig.neighbours.called("Complete") == []


async def test_64_levels_are_taken(rig: Rig) -> None:
    headers = {**rig.bearer("llm:invoke"), "content-type": "application/json"}
    body = b'{"a":' + b"[" * 63 + b"]" * 63 + b"}"
    async with rig.session.post(CHAT, data=body, headers=headers) as reply:
        assert reply.status == 200
    assert rig.neighbours.called("Complete")[0].request.body == body


async def test_bodies_that_do_not_fit_the_schema_are_422_and_do_not_echo_the_input(rig: Rig) -> None:
    for name, body in NOT_FITTING.items():
        headers = {**rig.bearer("feeds:manage"), "content-type": "application/json"}
        async with rig.session.post(FEEDS, data=json.dumps(body), headers=headers) as reply:
            document = await problem(reply, 422, "request_invalid")
            assert document["errors"], name
            assert "hunter2" not in str(document)
    assert rig.neighbours.called("AddFeed") == []


@pytest.mark.parametrize(
    "query",
    ["page_size=0", "page_size=101", "page_size=x", "page_size=1e9", "q=" + "x" * 201, "since=yesterday", "q=a%00b",
     "since=0000-00-00", "since=99999999999999999999", "page_token=" + "x" * 1_001],
)  # fmt: skip
async def test_parameters_out_of_bounds_are_422(rig: Rig, query: str) -> None:
    async with rig.session.get(f"/api/v1/news?{query}", headers=rig.bearer("news:read")) as reply:
        await problem(reply, 422)


@pytest.mark.parametrize(
    "query", ["since=0001-01-01T00:00:00%2B14:00", "since=9999-12-31T23:59:59-12:00", "q=%F0%9F%A6%8A", "q=%ff", "since=1e18"]
)
async def test_odd_parameters_are_never_500(rig: Rig, query: str) -> None:
    # The years at both ends leave the calendar when they are taken to UTC.
    async with rig.session.get(f"/api/v1/news?{query}", headers=rig.bearer("news:read")) as reply:
        assert reply.status < 500


@pytest.mark.parametrize("path", ["/api/v1/documents/%00", "/api/v1/documents/%ff%fe", "/api/v1/documents/..%2f", "/%f0%28"])
async def test_odd_paths_are_never_500(rig: Rig, path: str) -> None:
    reader, writer = await rig.connect()
    writer.write(rig.head("GET", path, connection="close", **rig.bearer("docs:read")))
    assert int((await reader.readline()).split()[1]) < 500
    writer.close()


@pytest.mark.parametrize("kind", ErrorKind)
async def test_each_kind_of_error_has_its_status(rig: Rig, kind: ErrorKind) -> None:
    async def fail(_request: Any) -> Any:
        raise WireroomError(
            kind, "some_code", "Something about \u00fc.", fields=[FieldProblem("url", "No good.")], retry_after=1.2
        )

    rig.neighbours.answers |= {"ListDocuments": fail, "Complete": fail}
    internal = kind is ErrorKind.INTERNAL
    async with rig.session.get("/api/v1/documents", headers=rig.bearer("docs:read")) as reply:
        document = await problem(reply, STATUS[kind][0], "internal" if internal else "some_code")
        assert ("Something" in document["detail"]) is not internal
        assert document["errors"] == ([] if internal else [{"field": "url", "message": "No good."}])
        assert reply.headers.get("retry-after") == (None if internal else "2")
    async with rig.session.post(CHAT, json={}, headers=rig.bearer("llm:invoke")) as reply:
        assert reply.status == STATUS[kind][0]
        error = (await reply.json())["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert error["param"] == (None if internal else "url")


async def test_what_nobody_foresaw_is_a_blank_500(rig: Rig) -> None:
    async def fail(_request: Any) -> Any:
        raise RuntimeError("password=hunter2")

    rig.neighbours.answers["ListDocuments"] = fail
    async with rig.session.get("/api/v1/documents", headers=rig.bearer("docs:read")) as reply:
        document = await problem(reply, 500, "internal")
        assert "hunter2" not in str(document)


def _suite() -> Path | None:
    """The archive of JSONTestSuite, from the folder of test data."""
    beside = Path(__file__).parents[4] / "shared" / "data"
    path = Path(os.environ.get("WIREROOM_TEST_DATA") or beside) / "attacks" / "jsontestsuite.zip"
    return path if path.exists() else None


@pytest.mark.skipif(
    _suite() is None, reason="JSONTestSuite is not there: put it in attacks/jsontestsuite.zip below WIREROOM_TEST_DATA"
)
async def test_json_test_suite(rig: Rig) -> None:
    suite = _suite()
    assert suite is not None
    headers = {**rig.bearer("feeds:manage", "llm:invoke"), "content-type": "application/json"}
    wrong, seen = [], 0
    with zipfile.ZipFile(suite) as archive:
        for entry in archive.infolist():
            name, body = Path(entry.filename).name, archive.read(entry)
            if not name.endswith(".json"):
                continue
            seen += 1
            statuses = []
            for path in (FEEDS, CHAT):
                async with rig.session.post(path, data=body, headers=headers) as reply:
                    statuses.append(reply.status)
            refused = _refused(body)
            if any(status >= 500 for status in statuses):
                wrong.append((name, statuses))
            if name.startswith("n_") and not (refused and all(400 <= status < 500 for status in statuses)):
                wrong.append((name, statuses))
            if name.startswith("y_") and refused:
                wrong.append((name, statuses))
    assert wrong == []
    assert seen > 300


def _refused(body: bytes) -> bool:
    try:
        strict_json.parse(body)
    except HttpProblemError:
        return True
    return False
