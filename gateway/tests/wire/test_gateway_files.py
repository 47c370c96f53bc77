"""`/v1/files` and `/v1/vector_stores` on the wire: forms with fields, files that come back, ids, and what is refused."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import pytest
from gateway_rig import Rig

from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_protos.rag.v1 import collections_pb2, rag_pb2

DOCUMENT = "018f6a00-0000-7000-8000-00000000000a"
FILE = f"file-{UUID(DOCUMENT).hex}"
STORE = f"vs_{UUID(DOCUMENT).hex}"
PART = '--b\r\nContent-Disposition: form-data; name="{}"{}\r\n\r\n{}\r\n'
CONTENT = PART.format("file", '; filename="a.txt"', "hello")
PURPOSE = PART.format("purpose", "", "assistants")


class Receiver:
    """Takes uploads; `completed` are those that came to their end."""

    def __init__(self) -> None:
        self.completed: list[tuple[str, bytes]] = []

    async def __call__(self, messages: Any) -> rag_pb2.UploadDocumentResponse:
        name, data = "", b""
        async for message in messages:
            name = message.head.filename or name
            data += message.data
        self.completed.append((name, data))
        return rag_pb2.UploadDocumentResponse(document=rag_pb2.Document(id=DOCUMENT, name=name, size=len(data)))


@pytest.fixture
def receiver(rig: Rig) -> Receiver:
    made = Receiver()
    rig.neighbours.answers["UploadDocument"] = made
    return made


async def send(rig: Rig, form: str) -> tuple[int, Any]:
    headers = {**rig.bearer("docs:write"), "content-type": "multipart/form-data; boundary=b"}
    async with rig.session.post("/v1/files", data=form.encode(), headers=headers) as reply:
        return reply.status, await reply.json()


@pytest.mark.parametrize("form", [PURPOSE + CONTENT, CONTENT + PURPOSE])
async def test_a_file_arrives_wherever_its_purpose_stands(rig: Rig, receiver: Receiver, form: str) -> None:
    status, file = await send(rig, f"{form}--b--\r\n")
    assert (status, file["id"], file["purpose"], file["status"]) == (200, FILE, "assistants", "uploaded")
    assert receiver.completed == [("a.txt", b"hello")]


@pytest.mark.parametrize(
    ("form", "status", "code"),
    [
        (CONTENT, 422, "form_field_missing"),
        (PURPOSE, 422, "file_missing"),
        (PURPOSE + PURPOSE + CONTENT, 422, "form_unexpected_part"),
        (PURPOSE + CONTENT + PART.format("expires_after[days]", "", "3"), 422, "form_unexpected_part"),
        (PART.format("purpose", '; filename="p"', "assistants") + CONTENT, 422, "form_unexpected_part"),
        (CONTENT + PART.format("purpose", "", "batch"), 400, "purpose_unsupported"),
        (PART.format("purpose", "", "x" * 201) + CONTENT, 422, "form_field_invalid"),
    ],
)
async def test_a_form_that_does_not_fit_stores_nothing(rig: Rig, receiver: Receiver, form: str, status: int, code: str) -> None:
    got, answer = await send(rig, f"{form}--b--\r\n")
    assert (got, answer["error"]["code"]) == (status, code)
    assert receiver.completed == []


async def test_a_file_comes_back_as_an_attachment(rig: Rig) -> None:
    async def content(request: rag_pb2.GetContentRequest) -> AsyncIterator[rag_pb2.GetContentResponse]:
        assert request.id == DOCUMENT
        yield rag_pb2.GetContentResponse(document=rag_pb2.Document(id=DOCUMENT, name='ü".html', size=10))
        yield rag_pb2.GetContentResponse(data=b"<html>")
        yield rag_pb2.GetContentResponse(data=b"body")

    rig.neighbours.answers["GetContent"] = content
    async with rig.session.get(f"/v1/files/{FILE}/content", headers=rig.bearer("docs:read")) as reply:
        assert (reply.status, await reply.read()) == (200, b"<html>body")
        assert reply.headers["content-type"] == "application/octet-stream"
        assert reply.headers["content-disposition"] == "attachment; filename*=UTF-8''%C3%BC%22.html"


async def test_a_file_that_is_not_there_is_an_openai_error(rig: Rig) -> None:
    async def content(_request: rag_pb2.GetContentRequest) -> AsyncIterator[rag_pb2.GetContentResponse]:
        yield rag_pb2.GetContentResponse(document=rag_pb2.Document(id=DOCUMENT, name="a.txt", size=10))
        raise WireroomError(ErrorKind.NOT_FOUND, "document_file_missing", "Gone.")

    rig.neighbours.answers["GetContent"] = content
    for given, code in ((FILE, "document_file_missing"), ("file-nonsense", "file_not_found")):
        async with rig.session.get(f"/v1/files/{given}/content", headers=rig.bearer("docs:read")) as reply:
            assert (reply.status, (await reply.json())["error"]["code"]) == (404, code)


@pytest.mark.parametrize(
    ("path", "body", "code"),
    [
        ("/v1/vector_stores", {"chunking_strategy": {"type": "static", "static": {}}}, "chunking_unsupported"),
    ],
)
async def test_what_is_not_supported_is_said(rig: Rig, path: str, body: Any, code: str) -> None:
    async with rig.session.post(path, json=body, headers=rig.bearer("docs:read", "collections:manage:own")) as reply:
        assert (reply.status, (await reply.json())["error"]["code"]) == (400, code)
    for method in ("CreateCollection", "UpdateCollection", "Retrieve"):
        assert rig.neighbours.called(method) == []


async def test_several_queries_give_each_passage_once_best_first(rig: Rig) -> None:
    async def retrieve(request: rag_pb2.RetrieveRequest) -> rag_pb2.RetrieveResponse:
        assert (list(request.collection_ids), request.top_k) == ([DOCUMENT], 2)
        shared = rag_pb2.Passage(
            id="1", document_id=DOCUMENT, title="a", text="x", score=0.01 if request.query == "p" else 2 / 61
        )
        own = rag_pb2.Passage(id=request.query, document_id=DOCUMENT, title="a", text=request.query, score=0.02)
        return rag_pb2.RetrieveResponse(passages=[shared, own])

    rig.neighbours.answers["Retrieve"] = retrieve
    body = {"query": ["p", "q"], "max_num_results": 2, "ranking_options": {"score_threshold": 0.6}}
    async with rig.session.post(f"/v1/vector_stores/{STORE}/search", json=body, headers=rig.bearer("docs:read")) as reply:
        answer = await reply.json()
    assert [(result["content"][0]["text"], round(result["score"], 2)) for result in answer["data"]] == [("x", 1.0), ("p", 0.61)]
    assert answer["search_query"] == ["p", "q"]


async def test_pages_of_stores_are_asked_for_by_id(rig: Rig) -> None:
    async def listed(request: collections_pb2.ListCollectionsRequest) -> collections_pb2.ListCollectionsResponse:
        assert request.page == collections_pb2.IdPage(size=3, before=DOCUMENT, ascending=True)
        return collections_pb2.ListCollectionsResponse(collections=[collections_pb2.Collection(id=DOCUMENT)], has_more=True)

    rig.neighbours.answers["ListCollections"] = listed
    path = f"/v1/vector_stores?limit=3&order=asc&before={STORE}"
    async with rig.session.get(path, headers=rig.bearer("docs:read")) as reply:
        answer = await reply.json()
    assert (answer["first_id"], answer["last_id"], answer["has_more"]) == (STORE, STORE, True)
