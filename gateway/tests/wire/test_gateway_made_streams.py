"""Streams of `/v1/responses` and `/v1/completions` whose replica goes: another one makes the rest."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
from gateway_rig import Rig
from test_gateway_streams import INFO, LOST, STREAM, answer

from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_protos.chat.v1 import compatibility_pb2, responses_pb2
from wireroom_protos.chat.v1.conversation_pb2 import StreamEnd

FRAMES = answer("It ", "is ", "so.")
RESPONSE = "resp_0198a0000000700080000000000000aa"


def event(number: int, kind: str, **members: Any) -> responses_pb2.ResponseEvent:
    return responses_pb2.ResponseEvent(type=kind, data=json.dumps({"type": kind, "sequence_number": number, **members}).encode())


EVENTS = [
    event(0, "response.created", response={"id": RESPONSE}),
    event(1, "response.in_progress", response={"id": RESPONSE}),
    *(event(2 + place, "response.output_text.delta", delta=word) for place, word in enumerate(("It ", "is ", "so."))),
    event(5, "response.completed", response={"id": RESPONSE}),
]


async def test_the_events_of_a_response_go_on(rig: Rig) -> None:
    asked: list[Any] = []

    async def broken(_request: Any) -> AsyncIterator[Any]:
        yield responses_pb2.StreamResponseResponse(info=INFO, frames=FRAMES[:1])
        yield responses_pb2.StreamResponseResponse(event=EVENTS[0])
        yield responses_pb2.StreamResponseResponse(event=EVENTS[1])
        yield responses_pb2.StreamResponseResponse(event=EVENTS[2], frames=FRAMES[1:2])
        raise LOST

    async def resume(request: Any) -> AsyncIterator[Any]:
        asked.append(request)
        # One more, and this replica goes as well.
        yield responses_pb2.ResumeResponseResponse(
            event=EVENTS[request.events], frames=FRAMES[request.events - 1 : request.events]
        )
        if len(asked) == 1:
            raise LOST
        yield responses_pb2.ResumeResponseResponse(event=EVENTS[-1])

    rig.neighbours.answers |= {"StreamResponse": broken, "ResumeResponse": resume}
    body = {"model": "m", "input": "?", "stream": True}
    async with rig.session.post("/v1/responses", json=body, headers=rig.bearer("llm:invoke")) as reply:
        text = await reply.text()
    sent = [json.loads(block.partition("\ndata: ")[2]) for block in text.split("\n\n") if block]
    assert [item["sequence_number"] for item in sent] == [0, 1, 2, 3, 4, 5][: len(sent)]
    assert sent[-1]["type"] == "response.completed"
    assert [(item.id, item.stream_id, item.events) for item in asked] == [(RESPONSE, STREAM, 3), (RESPONSE, STREAM, 4)]
    assert list(asked[0].tail) == FRAMES[:2]
    assert list(asked[1].tail) == FRAMES[:3]
    assert json.loads(asked[0].body) == body


async def test_the_chunks_of_a_text_go_on(rig: Rig) -> None:
    def chunk(text: str, reason: str | None = None) -> bytes:
        choice = {"text": text, "index": 0, "logprobs": None, "finish_reason": reason}
        head = {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": "m"}
        return json.dumps({**head, "choices": [choice]}).encode()

    asked: list[Any] = []

    async def broken(_request: Any) -> AsyncIterator[Any]:
        yield compatibility_pb2.StreamCompleteTextResponse(info=INFO, frames=FRAMES[:1])
        yield compatibility_pb2.StreamCompleteTextResponse(data=chunk("It "), frames=FRAMES[1:2])
        raise LOST

    async def resume(request: Any) -> AsyncIterator[Any]:
        asked.append(request)
        for place, data in enumerate((chunk("is "), chunk("so."), chunk("", "stop")), start=2):
            yield compatibility_pb2.ResumeCompleteTextResponse(data=data, frames=FRAMES[place : place + 1])

    rig.neighbours.answers |= {"StreamCompleteText": broken, "ResumeCompleteText": resume}
    async with openai.AsyncOpenAI(base_url=f"{rig.url}/v1", api_key=rig.issuer.token("llm:invoke"), max_retries=0) as client:
        stream = await client.completions.create(model="m", prompt="?", stream=True)
        chunks = [chunk async for chunk in stream]
    assert "".join(chunk.choices[0].text for chunk in chunks) == "It is so."
    assert (asked[0].stream_id, asked[0].chunks, list(asked[0].tail)) == (STREAM, 1, FRAMES[:2])


async def test_a_text_that_is_lost_ends_with_its_error_at_once(rig: Rig) -> None:
    calls = 0

    async def broken(_request: Any) -> AsyncIterator[Any]:
        yield compatibility_pb2.StreamCompleteTextResponse(info=INFO, frames=FRAMES[:1])
        yield compatibility_pb2.StreamCompleteTextResponse(data=b'{"choices":[]}', frames=FRAMES[1:2])
        raise LOST

    async def resume(_request: Any) -> AsyncIterator[Any]:
        nonlocal calls
        calls += 1
        end = StreamEnd(status="failed", error_kind=8, error_code="stream_lost", error_detail="It is lost.")
        yield compatibility_pb2.ResumeCompleteTextResponse(end=end)

    rig.neighbours.answers |= {"StreamCompleteText": broken, "ResumeCompleteText": resume}
    body = {"model": "m", "prompt": "?", "stream": True}
    async with rig.session.post("/v1/completions", json=body, headers=rig.bearer("llm:invoke")) as reply:
        text = await reply.text()
    assert "[DONE]" not in text
    assert '"stream_lost"' in text
    assert calls == 1


@pytest.mark.parametrize("frames", [[], FRAMES[:1]])
async def test_what_cannot_be_resumed_ends_with_the_failure(rig: Rig, frames: list[Any]) -> None:
    """Without frames (several prompts) nobody is asked; else the refusal changes nothing for the client."""

    async def broken(_request: Any) -> AsyncIterator[Any]:
        yield compatibility_pb2.StreamCompleteTextResponse(info=INFO, frames=frames)
        yield compatibility_pb2.StreamCompleteTextResponse(data=b'{"choices":[]}')
        raise LOST

    async def resume(_request: Any) -> AsyncIterator[Any]:
        raise WireroomError(ErrorKind.NOT_FOUND, "stream_not_found", "There is no such stream.")
        yield

    rig.neighbours.answers |= {"StreamCompleteText": broken, "ResumeCompleteText": resume}
    body = {"model": "m", "prompt": ["a", "b"], "stream": True}
    async with rig.session.post("/v1/completions", json=body, headers=rig.bearer("llm:invoke")) as reply:
        text = await reply.text()
    assert '"rpc_unavailable"' in text
    assert bool(rig.neighbours.called("ResumeCompleteText")) is bool(frames)
