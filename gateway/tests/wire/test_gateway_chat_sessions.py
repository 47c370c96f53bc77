"""Chat sessions over HTTP: what goes to the chat service, what comes back, what a client sees of failures."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
import pytest
import pytest_asyncio
from gateway_rig import Rig, running

from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_protos.chat.v1 import chat_pb2, conversation_pb2, sessions_pb2

PERMISSIONS = ("chat:use", "sessions:read:own", "sessions:write:own")
NOTE = {"url": "https://news.example/1", "title": "Tram", "start_index": 0, "end_index": 4}


@pytest_asyncio.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    async with running(tmp_path) as started:
        yield started


async def send(_request: Any) -> conversation_pb2.SendResponse:
    completion = {
        "choices": [
            {
                "index": 0,
                "finish_reason": "stop",
                "message": {
                    "role": "assistant",
                    "content": "Tram.",
                    "annotations": [{"type": "url_citation", "url_citation": NOTE}],
                },
            }
        ],
        "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
    }
    info = chat_pb2.CompletionInfo(completion_id="chatcmpl-1", model="grounded", answer_mode="extractive", provider="wireroom")
    return conversation_pb2.SendResponse(
        message_id="m2", user_message_id="m1", session_id="s1", body=orjson.dumps(completion), info=info
    )


async def test_turn_is_told_as_one_object(rig: Rig) -> None:
    rig.neighbours.answers["Send"] = send
    body = {"message": "Tram?", "session_id": "s1", "grounding": {"sources": ["news"]}, "model": "news"}
    async with rig.session.post("/api/v1/chat", json=body, headers=rig.bearer("chat:use")) as reply:
        assert reply.status == 200
        assert reply.headers["x-answer-mode"] == "extractive"
        assert await reply.json() == {
            "session_id": "s1",
            "message_id": "m2",
            "user_message_id": "m1",
            "message": "Tram.",
            "citations": [NOTE],
            "finish_reason": "stop",
            "answer_mode": "extractive",
            "model": "grounded",
            "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
            "stream_id": "chatcmpl-1",
        }
    sent = rig.neighbours.called("Send")[0].request
    assert (sent.session_id, sent.message, sent.model) == ("s1", "Tram?", "news")
    assert orjson.loads(sent.grounding) == {"sources": ["news"]}


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (WireroomError(ErrorKind.CONFLICT, "turn_in_progress", "Wait.", retry_after=2), 409),
        (WireroomError(ErrorKind.INVALID, "message_too_long", "Too long."), 400),
        (WireroomError(ErrorKind.NOT_FOUND, "session_not_found", "None."), 404),
    ],
)
async def test_failed_turn_is_a_problem_document(rig: Rig, error: WireroomError, status: int) -> None:
    async def fail(_request: Any) -> Any:
        raise error

    rig.neighbours.answers["Send"] = fail
    async with rig.session.post("/api/v1/chat", json={"message": "Hi"}, headers=rig.bearer("chat:use")) as reply:
        assert reply.status == status
        assert reply.content_type == "application/problem+json"
        assert (await reply.json())["code"] == error.code


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "rpc", "expected"),
    [
        ("POST", "/api/v1/sessions", {"title": "T", "model": "docs"}, 201, "CreateSession", {"title": "T", "model": "docs"}),
        (
            "GET",
            "/api/v1/sessions?q=a%20b&archived=true",
            None,
            200,
            "ListSessions",
            {"q": "a b", "archived": True, "page_size": 50},
        ),
        ("GET", "/api/v1/sessions/s1", None, 200, "GetSession", {"id": "s1"}),
        (
            "PATCH",
            "/api/v1/sessions/s1",
            {"archived": True, "version": 3},
            200,
            "UpdateSession",
            {"id": "s1", "archived": True, "version": 3},
        ),
        ("DELETE", "/api/v1/sessions/s1", None, 204, "DeleteSession", {"id": "s1"}),
        (
            "GET",
            "/api/v1/sessions/s1/messages?newest_first=true&page_size=7",
            None,
            200,
            "ListMessages",
            {"session_id": "s1", "newest_first": True, "page_size": 7},
        ),
        (
            "POST",
            "/api/v1/messages/m1/feedback",
            {"score": -1, "tags": ["wrong"], "comment": "No."},
            204,
            "AddFeedback",
            {"message_id": "m1", "score": -1, "tags": ["wrong"], "comment": "No."},
        ),
    ],
)
async def test_route_maps_to_its_call(  # noqa: PLR0917 - parametrized
    rig: Rig, method: str, path: str, body: Any, status: int, rpc: str, expected: dict[str, Any]
) -> None:
    async with rig.session.request(method, path, json=body, headers=rig.bearer(*PERMISSIONS)) as reply:
        assert reply.status == status, await reply.text()
    request = rig.neighbours.called(rpc)[0].request
    assert {name: getattr(request, name) for name in expected} == expected


async def test_null_takes_the_grounding_away_and_silence_leaves_it(rig: Rig) -> None:
    for body in ({"title": "T"}, {"grounding": None}, {"grounding": {"mode": "assist"}}):
        async with rig.session.patch("/api/v1/sessions/s1", json=body, headers=rig.bearer(*PERMISSIONS)) as reply:
            assert reply.status == 200
    requests = [call.request for call in rig.neighbours.called("UpdateSession")]
    assert [(request.HasField("grounding"), request.grounding) for request in requests] == [
        (False, b""),
        (True, b""),
        (True, b'{"mode":"assist"}'),
    ]
    assert [request.HasField("title") for request in requests] == [True, False, False]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/v1/chat", {}),
        ("/api/v1/chat", {"message": ""}),
        ("/api/v1/chat", {"message": "a\x00b"}),
        ("/api/v1/chat", {"message": "Hi", "stream": True}),
        ("/api/v1/chat", {"message": 7}),
        ("/api/v1/sessions", {"title": "x" * 201}),
        ("/api/v1/sessions/s1/export", {"format": "docx"}),
        ("/api/v1/messages/m1/feedback", {"score": 5}),
        ("/api/v1/messages/m1/feedback", {"score": 1, "tags": ["x"] * 11}),
    ],
)
async def test_input_that_does_not_fit_reaches_nobody(rig: Rig, path: str, body: Any) -> None:
    async with rig.session.post(path, json=body, headers=rig.bearer(*PERMISSIONS)) as reply:
        assert reply.status == 422
    assert [
        call.method for call in rig.neighbours.calls if call.method in {"Send", "CreateSession", "ExportSession", "AddFeedback"}
    ] == []


async def test_export_is_an_attachment(rig: Rig) -> None:
    async def export(_request: Any) -> AsyncIterator[sessions_pb2.ExportSessionResponse]:
        yield sessions_pb2.ExportSessionResponse(media_type="application/pdf", filename="session-s1.pdf")
        yield sessions_pb2.ExportSessionResponse(data=b"%PDF-")
        yield sessions_pb2.ExportSessionResponse(data=b"rest")

    rig.neighbours.answers["ExportSession"] = export
    async with rig.session.post(
        "/api/v1/sessions/s1/export", json={"format": "pdf"}, headers=rig.bearer("sessions:read:own")
    ) as reply:
        assert reply.status == 200
        assert reply.headers["content-type"] == "application/pdf"
        assert reply.headers["content-disposition"] == 'attachment; filename="session-s1.pdf"'
        assert reply.headers["x-content-type-options"] == "nosniff"
        assert await reply.read() == b"%PDF-rest"


async def test_export_that_fails_before_its_first_byte_has_its_status(rig: Rig) -> None:
    async def export(_request: Any) -> AsyncIterator[sessions_pb2.ExportSessionResponse]:
        yield sessions_pb2.ExportSessionResponse(media_type="application/pdf", filename="session-s1.pdf")
        raise WireroomError(ErrorKind.TOO_LARGE, "export_too_large", "Too large.")

    rig.neighbours.answers["ExportSession"] = export
    async with rig.session.post(
        "/api/v1/sessions/s1/export", json={"format": "pdf"}, headers=rig.bearer("sessions:read:own")
    ) as reply:
        assert reply.status == 413
        assert (await reply.json())["code"] == "export_too_large"


@pytest.mark.parametrize(
    ("method", "path", "permission"),
    [
        ("POST", "/api/v1/chat", "chat:use"),
        ("POST", "/api/v1/sessions", "sessions:write:own"),
        ("GET", "/api/v1/sessions", "sessions:read:own"),
        ("DELETE", "/api/v1/sessions/s1", "sessions:write:own"),
        ("POST", "/api/v1/sessions/s1/export", "sessions:read:own"),
        ("POST", "/api/v1/messages/m1/feedback", "sessions:write:own"),
    ],
)
async def test_permission_is_demanded(rig: Rig, method: str, path: str, permission: str) -> None:
    others = [name for name in (*PERMISSIONS, "llm:invoke") if name != permission]
    async with rig.session.request(method, path, json={}, headers=rig.bearer(*others)) as reply:
        assert reply.status == 403
    async with rig.session.request(method, path, json={}) as reply:
        assert reply.status == 401
