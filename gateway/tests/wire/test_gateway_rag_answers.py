"""`/api/v1/rag`: what becomes of a question on its way to the chat service, and of the answer on its way back."""

from __future__ import annotations

import json
from typing import Any

from gateway_rig import Rig

from wireroom_protos.chat.v1 import chat_pb2
from wireroom_protos.rag.v1 import rag_pb2

_CITATION = {
    "marker": 1,
    "citation_id": "c1",
    "document_id": "d1",
    "version": 2,
    "kind": "document",
    "title": "Manual",
    "url": "http://127.0.0.1:8000/api/v1/citations/c1",
    "permalink": "http://127.0.0.1:8000/api/v1/citations/c1",
    "page": None,
    "start": 5,
    "end": 9,
    "quote": "Text",
    "sha256": "ab" * 32,
    "support": "similar",
    "score": 0.9,
}
_NOTE = {"url": _CITATION["url"], "title": "Manual", "start_index": 0, "end_index": 9}


async def test_question_becomes_a_grounded_completion_and_its_answer_comes_back(rig: Rig) -> None:
    async def complete(_request: Any) -> Any:
        message = {"content": "Text [1].", "annotations": [{"type": "url_citation", "url_citation": _NOTE}]}
        body = {
            "choices": [{"message": message, "finish_reason": "stop"}],
            "usage": {"total_tokens": 3},
            "citations": [_CITATION],
            "missing": ["Lisbon"],
            "unsupported": [{"start_index": 1, "end_index": 2}],
        }
        return chat_pb2.CompleteResponse(
            body=json.dumps(body).encode(), info=chat_pb2.CompletionInfo(answer_mode="generated", model="m")
        )

    rig.neighbours.answers["Complete"] = complete
    asked = {
        "question": "Why?",
        "kinds": ["article", "document"],
        "collections": ["Harbour"],
        "since": "2026-01-01T00:00:00Z",
        "mode": "assist",
        "unsupported": "drop",
        "top_k": 3,
    }
    async with rig.session.post("/api/v1/rag/answer", json=asked, headers=rig.bearer("llm:invoke")) as reply:
        assert (reply.status, reply.headers["x-answer-mode"]) == (200, "generated")
        answer = await reply.json()
    assert (answer["answer"], answer["annotations"], answer["missing"]) == ("Text [1].", [_NOTE], ["Lisbon"])
    assert answer["unsupported"] == [{"start_index": 1, "end_index": 2}]
    (citation,) = answer["citations"]
    assert citation == {**{key: value for key, value in _CITATION.items() if key != "citation_id"}, "id": "c1"}
    sent = json.loads(rig.neighbours.called("Complete")[0].request.body)
    assert sent["model"] == "grounded"
    assert sent["grounding"] == {
        "sources": ["news", "docs:Harbour"],
        "since": "2026-01-01T00:00:00+00:00",
        "mode": "assist",
        "unsupported": "drop",
        "top_k": 3,
    }


async def test_answer_is_streamed_as_native_events(rig: Rig) -> None:
    async def stream(_request: Any) -> Any:
        yield chat_pb2.StreamCompleteResponse(seq=1, info=chat_pb2.CompletionInfo(completion_id="s", answer_mode="generated"))
        for seq, delta in enumerate(({"content": "Text [1]."}, {"annotations": [{"url_citation": _NOTE}]}), start=2):
            chunk = {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]}
            yield chat_pb2.StreamCompleteResponse(seq=seq, data=json.dumps(chunk).encode())
        yield chat_pb2.StreamCompleteResponse(seq=4, data=b'{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}')

    rig.neighbours.answers["StreamComplete"] = stream
    async with rig.session.post(
        "/api/v1/rag/answer/stream", json={"question": "Why?"}, headers=rig.bearer("llm:invoke")
    ) as reply:
        assert reply.headers["content-type"].startswith("text/event-stream")
        text = await reply.text()
    events = [line.removeprefix("event: ") for line in text.splitlines() if line.startswith("event: ")]
    assert events == ["ready", "token", "citation", "done"]
    assert '"finish_reason":"stop"' in text


async def test_explanations_are_given_where_they_were_asked_for(rig: Rig) -> None:
    async def retrieve(request: Any) -> Any:
        passage = rag_pb2.Passage(id="p")
        if request.explain:
            passage.explanation.CopyFrom(rag_pb2.Explanation(dense_rank=2, field_scores={"title": 1.5}))
        return rag_pb2.RetrieveResponse(passages=[passage])

    rig.neighbours.answers["Retrieve"] = retrieve
    found = []
    for explain in (False, True):
        asked = {"query": "q", "explain": explain}
        async with rig.session.post("/api/v1/rag/query", json=asked, headers=rig.bearer("docs:read")) as reply:
            found.append((await reply.json())["passages"][0]["explanation"])
    assert found[0] is None
    assert (found[1]["dense_rank"], found[1]["lexical_rank"], found[1]["field_scores"]) == (2, 0, {"title": 1.5})
