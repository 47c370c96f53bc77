"""Bad input gets a clear problem document and leaves nothing half-written."""

from __future__ import annotations

import io
import json
import zipfile
from typing import Any

import openai
import pytest
from api import Api, Reply
from conftest import Installation

# A PDF whose page tree is empty.
NO_PAGES = (
    b"%PDF-1.4\n1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj\n2 0 obj<</Type/Pages/Kids[]/Count 0>>endobj\n"
    b"trailer<</Root 1 0 R/Size 3>>\n%%EOF\n"
)


def problem(reply: Reply, status: int, code: str) -> dict[str, Any]:
    """The RFC 9457 document of a refusal, checked for its form."""
    assert reply.status == status, (reply.status, reply.body[:500])
    assert reply.headers["Content-Type"].startswith("application/problem+json")
    document: dict[str, Any] = reply.json
    assert document["status"] == status
    assert document["code"] == code, document
    assert document["title"]
    assert document["detail"]
    assert document["request_id"] == reply.headers["x-request-id"]
    return document


def document_count(api: Api) -> int:
    return len(api.get("/api/v1/documents?page_size=100")["documents"])


def feed_count(api: Api) -> int:
    return len(api.get("/api/v1/feeds?page_size=100")["feeds"])


def executable() -> bytes:
    return b"\x7fELF\x02\x01\x01\x00" + bytes(range(256)) * 8


def zip_archive() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("hello.txt", "hello")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "status", "code"),
    [
        ("empty.txt", b"", 400, "document_empty"),
        ("program.pdf", executable(), 400, "document_type_mismatch"),
        ("archive.docx", zip_archive(), 400, "document_type_mismatch"),
        ("large.txt", b"all work and no play " * 1_300_000, 413, "document_too_large"),
    ],
    ids=["empty", "program", "archive", "large"],
)
def test_bad_upload_is_refused_and_nothing_is_stored(
    installation: Installation, name: str, content: bytes, status: int, code: str
) -> None:
    before = document_count(installation.admin)
    problem(installation.admin.upload(name, content), status, code)
    assert document_count(installation.admin) == before


def test_pdf_without_pages_is_rejected_with_its_reason(installation: Installation) -> None:
    reply = installation.admin.upload("nothing.pdf", NO_PAGES)
    if reply.status == 202:
        document = installation.admin.settled(reply.json["id"], expect="rejected")
        assert document["reason_code"] in {"document_no_text", "document_unreadable"}
        assert document["reason"]
    else:
        problem(reply, 400, "document_unreadable")


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/missing.xml", 400, "feed_http_status"),
        ("/page.html", 400, "feed_not_a_feed"),
        ("/huge.xml", 400, "feed_too_large"),
    ],
)
def test_bad_feed_is_refused_and_nothing_is_stored(installation: Installation, path: str, status: int, code: str) -> None:
    before = feed_count(installation.admin)
    problem(installation.admin.call("POST", "/api/v1/feeds", {"url": installation.site.base_url + path}), status, code)
    assert feed_count(installation.admin) == before


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:9/feed.xml", "http://169.254.169.254/latest/", "http://[::1]/feed.xml", "http://10.0.0.1/x"]
)
def test_feed_on_a_private_address_is_refused(installation: Installation, url: str) -> None:
    problem(installation.admin.call("POST", "/api/v1/feeds", {"url": url}), 400, "feed_address_forbidden")


@pytest.mark.parametrize("url", ["ftp://example.com/feed", "feed", "http://user:secret@example.com/feed", ""])
def test_feed_url_that_is_none_is_refused(installation: Installation, url: str) -> None:
    reply = installation.admin.call("POST", "/api/v1/feeds", {"url": url})
    assert reply.status in {400, 422}
    assert reply.headers["Content-Type"].startswith("application/problem+json")


@pytest.mark.parametrize("key", ["", "nonsense", "wr_abcdefgh_" + "x" * 43, "eyJhbGciOiJub25lIn0.e30."])
def test_bad_token_is_refused_everywhere(installation: Installation, key: str) -> None:
    stranger = Api(installation.running.base_url, key)
    reply = stranger.call("GET", "/api/v1/documents")
    assert reply.status == 401
    assert reply.headers["WWW-Authenticate"].startswith("Bearer")
    assert reply.headers["Content-Type"].startswith("application/problem+json")
    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(base_url=f"{installation.running.base_url}/v1", api_key=key or "none", max_retries=0).models.list()


def test_unknown_model_is_an_openai_error(installation: Installation) -> None:
    client = openai.OpenAI(base_url=f"{installation.running.base_url}/v1", api_key=installation.admin.key, max_retries=0)
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="no-such-model", messages=[{"role": "user", "content": "hello"}])
    assert caught.value.code == "model_not_found"
    assert "no-such-model" in caught.value.message


@pytest.mark.parametrize("raw", [b"{", b"[1,2", b'{"url": NaN}', b'{"url": "\\ud800"}', b"\xff\xfe", b"[" * 10_000])
def test_malformed_json_is_a_problem_document(installation: Installation, raw: bytes) -> None:
    headers = {"Content-Type": "application/json"}
    reply = installation.admin.call("POST", "/api/v1/feeds", raw=raw, headers=headers)
    assert reply.status in {400, 422}
    assert reply.headers["Content-Type"].startswith("application/problem+json")
    reply = installation.admin.call("POST", "/v1/chat/completions", raw=raw, headers=headers)
    assert reply.status == 400
    assert json.loads(reply.body)["error"]["type"] == "invalid_request_error"


def test_unknown_path_and_method_are_problem_documents(installation: Installation) -> None:
    problem(installation.admin.call("GET", "/api/v1/nothing"), 404, "route_not_found")
    reply = installation.admin.call("DELETE", "/api/v1/news")
    assert reply.status == 405
    assert "GET" in reply.headers["Allow"]


def test_guessed_ids_are_not_found(installation: Installation) -> None:
    missing = "00000000-0000-7000-8000-000000000000"
    for path in (f"/api/v1/documents/{missing}", f"/api/v1/feeds/{missing}", f"/api/v1/news/{missing}", "/api/v1/citations/AAAA"):
        assert installation.admin.call("GET", path).status == 404, path
