from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import openai
import pytest
from gateway_rig import Rig, running
from hypothesis import given
from hypothesis import strategies as st

from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_gateway.routes.chat.frames import NativeFrames
from wireroom_protos.chat.v1 import chat_pb2
from wireroom_protos.chat.v1.conversation_pb2 import ResumeResponse, StreamEnd, StreamFrame, StreamSendResponse

STREAM = "chatcmpl-0198a0000000700080000000000000aa"
PATH = "/api/v1/chat/stream"
RESUME = f"/api/v1/chat/streams/{STREAM}"
ASK = {"message": "What is it?"}
INFO = chat_pb2.CompletionInfo(completion_id=STREAM, model="m", answer_mode="generated", provider="p")
LOST = WireroomError(ErrorKind.UNAVAILABLE, "rpc_unavailable", "A part of the service cannot be reached.")


def data(seq: int, text: str = "", **members: Any) -> StreamFrame:
    delta = {**({"content": text} if text else {}), **members.pop("delta", {})}
    choice = {"index": 0, "delta": delta, "finish_reason": members.pop("finish_reason", None)}
    return StreamFrame(seq=seq, data=json.dumps({"id": STREAM, "choices": [choice], **members}).encode())


def answer(*words: str) -> list[StreamFrame]:
    """Info, the words, the finish reason with usage, the end."""
    frames = [StreamFrame(seq=1, info=INFO), *(data(2 + place, word) for place, word in enumerate(words))]
    frames.append(data(len(frames) + 1, finish_reason="stop", usage={"total_tokens": 3}))
    return [*frames, StreamFrame(seq=len(frames) + 1, end=StreamEnd(status="completed"))]


def turn(frames: Sequence[StreamFrame], error: Exception | None = None) -> Callable[[Any], AsyncIterator[StreamSendResponse]]:
    async def parts(_request: Any) -> AsyncIterator[StreamSendResponse]:
        for frame in frames:
            first = {"message_id": "m1", "user_message_id": "u1"} if frame.seq == 1 else {}
            yield StreamSendResponse(frame=frame, **first)
        if error is not None:
            raise error

    return parts


class Resuming:
    """A replica that has the rest; `fails`: what it answers to the first requests instead."""

    def __init__(self, frames: Sequence[StreamFrame], *fails: Exception) -> None:
        self.frames = frames
        self.fails = list(fails)
        self.asked: list[Any] = []

    async def __call__(self, request: Any) -> AsyncIterator[ResumeResponse]:
        self.asked.append(request)
        if self.fails:
            raise self.fails.pop(0)
        for frame in self.frames:
            if frame.seq > request.after_seq:
                yield ResumeResponse(frame=frame)


def events(text: str) -> list[dict[str, str]]:
    """The events of a body; comments are left out."""
    found = []
    for block in text.split("\n\n"):
        lines = [line for line in block.split("\n") if line and not line.startswith(":")]
        if lines:
            found.append(dict(line.split(": ", 1) for line in lines))
    return found


async def post(rig: Rig, permission: str = "chat:use") -> tuple[Any, list[dict[str, str]]]:
    async with rig.session.post(PATH, json=ASK, headers=rig.bearer(permission)) as reply:
        return reply, events(await reply.text())


async def test_a_turn_arrives_as_numbered_events(rig: Rig) -> None:
    rig.neighbours.answers["StreamSend"] = turn(answer("It ", "is."))
    reply, got = await post(rig)
    assert reply.status == 200
    assert reply.content_type == "text/event-stream"
    assert reply.headers["x-accel-buffering"] == "no"
    assert reply.headers["cache-control"] == "no-cache"
    assert reply.headers["x-answer-mode"] == "generated"
    assert reply.headers["x-stream-id"] == STREAM
    assert [(event.get("id"), event["event"]) for event in got] == [
        ("1", "ready"),
        ("2", "token"),
        ("3", "token"),
        (None, "usage"),
        ("5", "done"),
    ]
    bodies = [json.loads(event["data"]) for event in got]
    assert bodies[0]["stream_id"] == STREAM
    assert (bodies[0]["message_id"], bodies[0]["user_message_id"]) == ("m1", "u1")
    assert [body["text"] for body in bodies[1:3]] == ["It ", "is."]
    assert bodies[3]["total_tokens"] == 3
    assert bodies[4] == {"type": "done", "seq": 5, "finish_reason": "stop"}
    assert rig.neighbours.called("StreamSend")[0].request.message == "What is it?"


@pytest.mark.parametrize(
    ("headers", "query"), [({"last-event-id": "2"}, ""), ({}, "?after=2"), ({"last-event-id": "2"}, "?after=0")]
)
async def test_a_client_comes_back_for_the_rest(rig: Rig, headers: dict[str, str], query: str) -> None:
    rig.neighbours.answers["Resume"] = resuming = Resuming(answer("It ", "is."))
    async with rig.session.get(RESUME + query, headers={**rig.bearer("chat:use"), **headers}) as reply:
        assert reply.status == 200
        got = events(await reply.text())
    assert [event["event"] for event in got] == ["token", "usage", "done"]
    assert json.loads(got[0]["data"])["text"] == "is."
    assert (resuming.asked[0].stream_id, resuming.asked[0].after_seq) == (STREAM, 2)


@pytest.mark.parametrize("value", ["x", "-1", "1.5", "9" * 40, "\u0663"])
async def test_an_id_that_no_event_has_is_refused(rig: Rig, value: str) -> None:
    async with rig.session.get(RESUME, headers={**rig.bearer("chat:use"), "last-event-id": value}) as reply:
        assert reply.status == 400
        assert (await reply.json())["code"] == "last_event_id_invalid"
    assert not rig.neighbours.called("Resume")


async def test_streams_of_others_and_trimmed_ones_have_their_status(rig: Rig) -> None:
    for error, status in (
        (WireroomError(ErrorKind.NOT_FOUND, "stream_not_found", "There is no such stream."), 404),
        (WireroomError(ErrorKind.CONFLICT, "stream_trimmed", "Gone."), 409),
    ):
        rig.neighbours.answers["Resume"] = Resuming([], error)
        async with rig.session.get(RESUME, headers=rig.bearer("chat:use")) as reply:
            assert reply.status == status
            assert (await reply.json())["code"] == error.code
    async with rig.session.get(RESUME, headers=rig.bearer("news:read")) as reply:
        assert reply.status == 403


async def test_cancelling(rig: Rig) -> None:
    async with rig.session.delete(RESUME, headers=rig.bearer("chat:use")) as reply:
        assert reply.status == 204
    assert rig.neighbours.called("Cancel")[0].request.stream_id == STREAM

    async def missing(_request: Any) -> Any:
        raise WireroomError(ErrorKind.NOT_FOUND, "stream_not_found", "There is no such stream.")

    rig.neighbours.answers["Cancel"] = missing
    async with rig.session.delete(RESUME, headers=rig.bearer("chat:use")) as reply:
        assert reply.status == 404


async def test_a_failed_generation_ends_with_an_error_event(rig: Rig) -> None:
    end = StreamEnd(status="failed", error_kind=8, error_code="provider_unavailable", error_detail="Away.")
    rig.neighbours.answers["StreamSend"] = turn([*answer("It ")[:2], StreamFrame(seq=3, end=end)])
    _, got = await post(rig)
    assert got[-1]["event"] == "error"
    assert json.loads(got[-1]["data"]) == {"type": "error", "seq": 3, "code": "provider_unavailable", "detail": "Away."}


async def test_silence_of_a_turn_is_filled_with_comments_before_the_first_event(work_dir: Path) -> None:
    go = asyncio.Event()

    async def slow(request: Any) -> AsyncIterator[StreamSendResponse]:
        await go.wait()
        async for part in turn(answer("It "))(request):
            yield part

    async with (
        running(work_dir, keepalive_seconds=0.05, stream_headers_seconds=0.05, answers={"StreamSend": slow}) as rig,
        rig.session.post(PATH, json=ASK, headers=rig.bearer("chat:use")) as reply,
    ):
        assert await reply.content.readuntil(b"\n\n") == b": keepalive\n\n"
        assert await reply.content.readuntil(b"\n\n") == b": keepalive\n\n"
        go.set()
        assert events(await reply.text())[-1]["event"] == "done"


@pytest.mark.parametrize("broken_after", [1, 2, 3, 4])
async def test_a_replica_that_dies_is_replaced_without_the_client_noticing(rig: Rig, broken_after: int) -> None:
    whole = answer("It ", "is ", "so.")
    rig.neighbours.answers["StreamSend"] = turn(whole)
    _, expected = await post(rig)
    rig.neighbours.answers["StreamSend"] = turn(whole[:broken_after], LOST)
    rig.neighbours.answers["Resume"] = resuming = Resuming(whole, LOST, LOST)
    _, got = await post(rig)
    assert got == expected
    request = resuming.asked[-1]
    assert (request.stream_id, request.after_seq) == (STREAM, broken_after)
    assert list(request.tail) == whole[:broken_after]


@pytest.mark.parametrize("code", ["stream_moved", "service_stopping"])
async def test_a_replica_that_goes_is_replaced_as_well_and_so_is_the_next(rig: Rig, code: str) -> None:
    whole = answer("It ", "is ", "so.")
    rig.neighbours.answers["StreamSend"] = turn(whole[:2], WireroomError(ErrorKind.UNAVAILABLE, code, "Going."))
    calls = []

    async def resume(request: Any) -> AsyncIterator[ResumeResponse]:
        calls.append(request.after_seq)
        yield ResumeResponse(frame=whole[request.after_seq])
        if request.after_seq < 4:
            raise LOST
        yield ResumeResponse(frame=whole[-1])

    rig.neighbours.answers["Resume"] = resume
    _, got = await post(rig)
    assert calls == [2, 3, 4]
    assert [json.loads(event["data"])["text"] for event in got if event["event"] == "token"] == ["It ", "is ", "so."]
    assert got[-1]["event"] == "done"


async def test_openai_streams_are_taken_up_too(rig: Rig) -> None:
    whole = answer("It ", "is ", "so.")

    async def broken(_request: Any) -> AsyncIterator[chat_pb2.StreamCompleteResponse]:
        yield chat_pb2.StreamCompleteResponse(info=INFO, seq=1)
        yield chat_pb2.StreamCompleteResponse(data=whole[1].data, seq=2)
        raise LOST

    rig.neighbours.answers["StreamComplete"] = broken
    rig.neighbours.answers["Resume"] = resuming = Resuming(whole, LOST)
    async with openai.AsyncOpenAI(base_url=f"{rig.url}/v1", api_key=rig.issuer.token("llm:invoke"), max_retries=0) as client:
        stream = await client.chat.completions.create(model="m", messages=[{"role": "user", "content": "?"}], stream=True)
        chunks = [chunk async for chunk in stream]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "It is so."
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None, None, None, "stop"]
    assert list(resuming.asked[-1].tail) == whole[:2]


async def test_chunks_that_came_together_are_events_of_their_own_and_known_one_by_one(rig: Rig) -> None:
    whole = answer("It ", "is ", "so.")

    async def broken(_request: Any) -> AsyncIterator[chat_pb2.StreamCompleteResponse]:
        yield chat_pb2.StreamCompleteResponse(info=INFO, seq=1)
        yield chat_pb2.StreamCompleteResponse(data=whole[1].data, seq=2, more=[whole[2].data])
        raise LOST

    rig.neighbours.answers["StreamComplete"] = broken
    rig.neighbours.answers["Resume"] = resuming = Resuming(whole, LOST)
    async with openai.AsyncOpenAI(base_url=f"{rig.url}/v1", api_key=rig.issuer.token("llm:invoke"), max_retries=0) as client:
        stream = await client.chat.completions.create(model="m", messages=[{"role": "user", "content": "?"}], stream=True)
        chunks = [chunk async for chunk in stream]
    assert [chunk.choices[0].delta.content for chunk in chunks][:3] == ["It ", "is ", "so."]
    assert list(resuming.asked[-1].tail) == whole[:3]
    assert resuming.asked[-1].after_seq == 3


@pytest.mark.parametrize("status", ["failed", "cancelled"])
async def test_openai_streams_that_cannot_go_on_end_with_an_error(rig: Rig, status: str) -> None:
    async def broken(_request: Any) -> AsyncIterator[chat_pb2.StreamCompleteResponse]:
        yield chat_pb2.StreamCompleteResponse(info=INFO, seq=1)
        yield chat_pb2.StreamCompleteResponse(data=data(2, "It ").data, seq=2)
        raise LOST

    end = StreamEnd(status=status, error_kind=8, error_code="stream_lost", error_detail="It is lost.")
    rig.neighbours.answers["StreamComplete"] = broken
    rig.neighbours.answers["Resume"] = resuming = Resuming([StreamFrame(seq=3, end=end)])
    body = {"model": "m", "messages": [{"role": "user", "content": "?"}], "stream": True}
    async with rig.session.post("/v1/chat/completions", json=body, headers=rig.bearer("llm:invoke")) as reply:
        text = await reply.text()
    assert "[DONE]" not in text
    assert json.loads(text.split("\n\n")[1].removeprefix("data: "))["error"]["code"] in {"stream_lost", "stream_cancelled"}
    assert len(resuming.asked) == 1


@pytest.mark.parametrize("kind", [ErrorKind.CONFLICT, ErrorKind.NOT_FOUND])
async def test_what_cannot_be_found_again_ends_with_the_first_failure_or_what_says_more(rig: Rig, kind: ErrorKind) -> None:
    rig.neighbours.answers["StreamSend"] = turn(answer("It ")[:2], LOST)
    rig.neighbours.answers["Resume"] = Resuming([], WireroomError(kind, "stream_diverged", "It went on differently."))
    _, got = await post(rig)
    assert "id" not in got[-1]
    assert json.loads(got[-1]["data"])["code"] == ("stream_diverged" if kind is ErrorKind.CONFLICT else "rpc_unavailable")


async def test_failures_of_the_answer_are_not_resumed(rig: Rig) -> None:
    error = WireroomError(ErrorKind.UNAVAILABLE, "provider_unavailable", "Away.")
    for frames, failure in ((answer("It ")[:2], error), ([], LOST)):
        rig.neighbours.answers["StreamSend"] = turn(frames, failure)
        async with rig.session.post(PATH, json=ASK, headers=rig.bearer("chat:use")) as reply:
            # Nothing was sent yet.
            assert reply.status == 503
            assert (await reply.json())["code"] == failure.code
    assert not rig.neighbours.called("Resume")


def test_citations_and_tools_have_frames_and_the_text_is_the_last_of_its_number() -> None:
    citation = {
        "type": "url_citation",
        "url_citation": {"url": "https://example.org", "title": "T", "start_index": 0, "end_index": 3},
    }
    call = {"index": 0, "id": "c1", "function": {"name": "f", "arguments": "{"}}
    frames = NativeFrames()
    made = frames.of(data(2, "It.", delta={"annotations": [citation]})) + frames.of(data(3, delta={"tool_calls": [call]}))
    assert [(item.kind, item.seq, item.resumable) for item in made] == [
        ("citation", 2, False),
        ("token", 2, True),
        ("tool", 3, True),
    ]
    assert made[0].body == citation["url_citation"]
    assert made[2].body == {"calls": [call]}


@given(st.lists(st.text(min_size=1, max_size=5), max_size=12), st.lists(st.integers(1, 15), max_size=12))
def test_wherever_a_client_comes_back_it_has_the_whole_text_once_and_the_end(words: list[str], cuts: list[int]) -> None:
    """Each connection breaks after some events; the next one begins after the last event that had an id."""
    whole = answer(*words)
    text, seen, ended = "", 0, None
    while ended is None:
        frames = NativeFrames()
        sent = [native for frame in whole if frame.seq > seen for native in frames.of(frame)]
        got = sent[: cuts.pop()] if cuts else sent
        for native in got:
            if native.kind == "token":
                text += native.body["text"]
            if native.kind == "done":
                ended = native.body["finish_reason"]
            if native.seq and native.resumable:
                seen = native.seq
    assert text == "".join(words)
    assert ended == "stop"
