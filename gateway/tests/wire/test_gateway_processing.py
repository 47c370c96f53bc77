"""`/api/v1/documents/{id}/…`: progress as events, retry and cancel, chunks, the file."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import pytest
from gateway_rig import Rig

from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_protos.events.v1 import events_pb2
from wireroom_protos.rag.v1 import processing_pb2, rag_pb2

DOCUMENT = "018f6a00-0000-7000-8000-00000000000a"
PATH = f"/api/v1/documents/{DOCUMENT}"


def at(state: str, **fields: Any) -> processing_pb2.WatchDocumentResponse:
    value = rag_pb2.DocumentState.Value(f"DOCUMENT_STATE_{state.upper()}")
    return processing_pb2.WatchDocumentResponse(document=rag_pb2.Document(id=DOCUMENT, version=1, state=value, **fields))


def events(body: bytes) -> list[tuple[str, Any]]:
    found = []
    for block in body.decode().split("\n\n"):
        if block.startswith("event: "):
            kind, data = block.split("\n", 1)
            found.append((kind.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    return found


async def test_progress_comes_as_events_until_the_final_state(rig: Rig) -> None:
    async def watch(request: processing_pb2.WatchDocumentRequest) -> AsyncIterator[processing_pb2.WatchDocumentResponse]:
        assert request.id == DOCUMENT
        yield at("received")
        yield at("extracted", pages=3)
        await asyncio.sleep(0)
        yield at("indexed", pages=3, chunks=7)

    rig.neighbours.answers["WatchDocument"] = watch
    async with rig.session.get(f"{PATH}/events", headers=rig.bearer("docs:read")) as reply:
        assert (reply.status, reply.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
        told = events(await reply.read())
    assert [kind for kind, _ in told] == ["progress", "progress", "done"]
    assert [(data["state"], data["pages"], data["chunks"]) for _, data in told] == [
        ("received", 0, 0),
        ("extracted", 3, 0),
        ("indexed", 3, 7),
    ]


async def test_stream_that_breaks_says_so_and_one_that_cannot_begin_is_a_problem(rig: Rig) -> None:
    seen = asyncio.Event()

    async def lost(_request: Any) -> AsyncIterator[processing_pb2.WatchDocumentResponse]:
        yield at("received")
        await seen.wait()
        raise WireroomError(ErrorKind.NOT_FOUND, "document_not_found", "There is no such document.")

    async def missing(_request: Any) -> AsyncIterator[processing_pb2.WatchDocumentResponse]:
        raise WireroomError(ErrorKind.NOT_FOUND, "document_not_found", "There is no such document.")
        yield at("received")

    rig.neighbours.answers["WatchDocument"] = lost
    async with rig.session.get(f"{PATH}/events", headers=rig.bearer("docs:read")) as reply:
        first = events(await reply.content.readuntil(b"\n\n"))
        seen.set()
        rest = events(await reply.read())
    assert [(kind, data.get("code")) for kind, data in first + rest] == [("progress", None), ("error", "document_not_found")]
    rig.neighbours.answers["WatchDocument"] = missing
    async with rig.session.get(f"{PATH}/events", headers=rig.bearer("docs:read")) as reply:
        assert (reply.status, (await reply.json())["code"]) == (404, "document_not_found")


async def test_following_ends_with_the_session_and_when_the_server_is_about_to_stop(rig: Rig) -> None:
    async def endless(_request: Any) -> AsyncIterator[processing_pb2.WatchDocumentResponse]:
        yield at("received")
        await asyncio.Event().wait()

    rig.neighbours.answers["WatchDocument"] = endless
    session = str(uuid4())
    headers = rig.bearer("docs:read", sid=session)
    async with asyncio.timeout(20), rig.session.get(f"{PATH}/events", headers=headers) as reply:
        first = events(await reply.content.readuntil(b"\n\n"))
        await rig.publish(events_pb2.AuthSessionRevoked(session_id=session))
        told = first + events(await reply.read())
    assert [(kind, data.get("code")) for kind, data in told] == [("progress", None), ("error", "credential_invalid")]
    async with asyncio.timeout(20), rig.session.get(f"{PATH}/events", headers=rig.bearer("docs:read")) as reply:
        first = events(await reply.content.readuntil(b"\n\n"))
        rig.infra.told_to_stop = True
        told = first + events(await reply.read())
    assert [(kind, data.get("code")) for kind, data in told] == [("progress", None), ("error", "service_stopping")]


@pytest.mark.parametrize(("action", "status"), [("retry", 202), ("cancel", 200)])
async def test_steering_answers_with_the_document(rig: Rig, action: str, status: int) -> None:
    method = f"{action.capitalize()}Document"

    async def steered(request: Any) -> Any:
        document = rag_pb2.Document(id=request.id, state=rag_pb2.DOCUMENT_STATE_RECEIVED)
        return getattr(processing_pb2, f"{method}Response")(document=document)

    rig.neighbours.answers[method] = steered
    async with rig.session.post(f"{PATH}/{action}", headers=rig.bearer("docs:write")) as reply:
        assert (reply.status, (await reply.json())["id"]) == (status, DOCUMENT)
    async with rig.session.post(f"{PATH}/{action}", headers=rig.bearer("docs:read")) as reply:
        assert reply.status == 403


async def test_chunks_and_file_are_handed_on(rig: Rig) -> None:
    async def chunks(request: processing_pb2.ListChunksRequest) -> processing_pb2.ListChunksResponse:
        assert (request.id, request.page_size, request.page_token) == (DOCUMENT, 2, "40")
        return processing_pb2.ListChunksResponse(
            version=3, chunks=[processing_pb2.Chunk(start=41, end=43, page=2, text="ab")], next_page_token="41"
        )

    async def content(_request: rag_pb2.GetContentRequest) -> AsyncIterator[rag_pb2.GetContentResponse]:
        yield rag_pb2.GetContentResponse(document=rag_pb2.Document(id=DOCUMENT, name="a.html", size=6))
        yield rag_pb2.GetContentResponse(data=b"<html>")

    async def held(_request: rag_pb2.GetContentRequest) -> AsyncIterator[rag_pb2.GetContentResponse]:
        raise WireroomError(ErrorKind.CONFLICT, "document_quarantined", "Malware.")
        yield rag_pb2.GetContentResponse()

    rig.neighbours.answers |= {"ListChunks": chunks, "GetContent": content}
    async with rig.session.get(f"{PATH}/chunks?page_size=2&page_token=40", headers=rig.bearer("docs:read")) as reply:
        expected = {"version": 3, "chunks": [{"start": 41, "end": 43, "page": 2, "text": "ab"}], "next_page_token": "41"}
        assert (reply.status, await reply.json()) == (200, expected)
    async with rig.session.get(f"{PATH}/content", headers=rig.bearer("docs:read")) as reply:
        assert (reply.status, await reply.read(), reply.headers["content-type"]) == (200, b"<html>", "application/octet-stream")
        assert reply.headers["content-disposition"].startswith("attachment")
    rig.neighbours.answers["GetContent"] = held
    async with rig.session.get(f"{PATH}/content", headers=rig.bearer("docs:read")) as reply:
        assert (reply.status, (await reply.json())["code"]) == (409, "document_quarantined")
