from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from gateway_rig import Rig

from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_protos.chat.v1 import chat_pb2, compatibility_pb2, responses_pb2

INFO = chat_pb2.CompletionInfo(
    completion_id="c1",
    model="m",
    answer_mode="generated",
    provider="b",
    provider_path=["a/one", "b/tw\u00f6\r\n"],
    cache="miss",
    cost_micros=42,
    budget_remaining_micros=0,
    retrieval="partial",
)
TOLD = {
    "x-answer-mode": "generated",
    "x-provider-path": "a/one,b/tw???",
    "x-cache": "miss",
    "x-retrieval": "partial",
    "x-budget-remaining-micros": "0",
}
CITATION = {"type": "url_citation", "url_citation": {"url": "u", "title": "t", "start_index": 4, "end_index": 10}}


def headers(rig: Rig, **more: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {rig.issuer.token('llm:invoke')}", **more}


@pytest.mark.parametrize(
    ("path", "method", "answer"),
    [
        ("/v1/chat/completions", "Complete", chat_pb2.CompleteResponse),
        ("/v1/completions", "CompleteText", compatibility_pb2.CompleteTextResponse),
        ("/v1/embeddings", "Embed", compatibility_pb2.EmbedResponse),
        ("/v1/responses", "CreateResponse", responses_pb2.CreateResponseResponse),
    ],
)
async def test_headers_tell_how_an_answer_came_about(rig: Rig, path: str, method: str, answer: Any) -> None:
    async def give(_request: Any) -> Any:
        return answer(body=b'{"a":1}', info=INFO)

    rig.neighbours.answers[method] = give
    async with rig.session.post(path, json={"model": "m"}, headers=headers(rig)) as reply:
        assert (reply.status, await reply.json()) == (200, {"a": 1})
        expected = {**TOLD, "x-cost-micros": "42"}
        assert {name: reply.headers.get(name) for name in expected} == expected
        assert float(reply.headers["x-overhead-ms"]) >= 0
    assert json.loads(rig.neighbours.called(method)[0].request.body) == {"model": "m"}


async def test_a_stream_does_not_tell_a_cost_that_is_not_known_yet(rig: Rig) -> None:
    async def give(_request: Any) -> AsyncIterator[Any]:
        yield compatibility_pb2.StreamCompleteTextResponse(info=INFO)
        yield compatibility_pb2.StreamCompleteTextResponse(data=b'{"a":1}')

    rig.neighbours.answers["StreamCompleteText"] = give
    async with rig.session.post("/v1/completions", json={"stream": True}, headers=headers(rig)) as reply:
        assert await reply.text() == 'data: {"a":1}\n\ndata: [DONE]\n\n'
        assert {name: reply.headers.get(name) for name in TOLD} == TOLD
        assert "x-cost-micros" not in reply.headers


async def test_events_of_a_response_are_named_and_a_failure_is_one_of_them(rig: Rig) -> None:
    read = asyncio.Event()

    async def give(_request: Any) -> AsyncIterator[Any]:
        yield responses_pb2.StreamResponseResponse(info=INFO)
        event = responses_pb2.ResponseEvent(type="response.created", data=b'{"sequence_number":0}')
        yield responses_pb2.StreamResponseResponse(event=event)
        # A failure before anything was sent would be a status.
        await read.wait()
        raise WireroomError(ErrorKind.UNAVAILABLE, "gone", "It is gone.")

    rig.neighbours.answers["StreamResponse"] = give
    async with rig.session.post("/v1/responses", json={"stream": True}, headers=headers(rig)) as reply:
        begun = await reply.content.readuntil(b"\n\n")
        read.set()
        first, second, rest = (begun + await reply.read()).decode().split("\n\n")
    assert (first, rest) == ('event: response.created\ndata: {"sequence_number":0}', "")
    name, _, data = second.partition("\ndata: ")
    assert name == "event: error"
    assert json.loads(data) == {"type": "error", "sequence_number": 1, "code": "gone", "message": "It is gone.", "param": None}


async def test_stored_responses_are_fetched_listed_and_deleted(rig: Rig) -> None:
    async def found(_request: Any) -> Any:
        return responses_pb2.GetResponseResponse(body=b'{"id":"resp_1"}')

    async def items(_request: Any) -> Any:
        return responses_pb2.ListInputItemsResponse(body=b'{"object":"list"}')

    rig.neighbours.answers |= {"GetResponse": found, "ListInputItems": items}
    async with rig.session.get("/v1/responses/resp_1", headers=headers(rig)) as reply:
        assert (reply.status, await reply.json()) == (200, {"id": "resp_1"})
    async with rig.session.get("/v1/responses/resp_1/input_items?limit=5&order=asc&after=x", headers=headers(rig)) as reply:
        assert (reply.status, await reply.json()) == (200, {"object": "list"})
    asked = rig.neighbours.called("ListInputItems")[0].request
    assert (asked.id, asked.limit, asked.ascending, asked.after) == ("resp_1", 5, True, "x")
    async with rig.session.delete("/v1/responses/resp_1", headers=headers(rig)) as reply:
        assert (reply.status, await reply.json()) == (200, {"id": "resp_1", "object": "response", "deleted": True})
    async with rig.session.get("/v1/responses/resp_1/input_items?order=up", headers=headers(rig)) as reply:
        assert (reply.status, set(await reply.json())) == (422, {"error"})


@pytest.mark.parametrize("wanted", [True, False])
async def test_sources_for_open_webui_are_opt_in(rig: Rig, *, wanted: bool) -> None:
    deltas: list[dict[str, Any]] = [{"content": "It: "}, {"content": "caf\u00e9 \u2603", "annotations": [CITATION]}]
    sent = [json.dumps({"choices": [{"index": 0, "delta": delta}]}).encode() for delta in deltas]

    async def give(_request: Any) -> AsyncIterator[Any]:
        yield chat_pb2.StreamCompleteResponse(info=INFO)
        for data in sent:
            yield chat_pb2.StreamCompleteResponse(data=data)

    rig.neighbours.answers["StreamComplete"] = give
    more = {"X-Citations-Format": "openwebui"} if wanted else {}
    async with rig.session.post("/v1/chat/completions", json={"stream": True}, headers=headers(rig, **more)) as reply:
        parts = [part.removeprefix("data: ") for part in (await reply.text()).split("\n\n")[:-1]]
    assert [part.encode() for part in parts[:2]] == sent
    assert parts[-1] == "[DONE]"
    events = [json.loads(part) for part in parts[2:-1]]
    source = {"source": {"name": "t", "url": "u"}, "document": ["caf\u00e9 \u2603"], "metadata": [{"source": "u", "name": "t"}]}
    assert events == ([{"event": {"type": "source", "data": source}}] if wanted else [])


async def test_a_spent_budget_is_not_asked_for_again(rig: Rig) -> None:
    async def refuse(_request: Any) -> Any:
        raise WireroomError(ErrorKind.RATE_LIMITED, "insufficient_quota", "Spent.", retry_after=3600)

    rig.neighbours.answers["CreateResponse"] = refuse
    async with rig.session.post("/v1/responses", json={"model": "m"}, headers=headers(rig)) as reply:
        assert (reply.status, reply.headers["x-should-retry"], reply.headers["retry-after"]) == (429, "false", "3600")
        error = (await reply.json())["error"]
    assert (error["type"], error["code"]) == ("insufficient_quota", "insufficient_quota")
