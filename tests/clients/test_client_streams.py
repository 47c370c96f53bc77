"""Streams byte for byte, and every chunk against a closed schema."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest
from conftest import Served
from openai.types.responses import ResponseStreamEvent
from openai_schemas import chat_chunk, text_chunk
from pydantic import TypeAdapter
from wire import assert_golden, chunks, events

MODEL = "scripted/writer"
MESSAGES = [{"role": "user", "content": "count"}]
USAGE = {"stream_options": {"include_usage": True}}
CALLS = [
    {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Tornby"}'}},
    {"id": "call_2", "type": "function", "function": {"name": "clock", "arguments": "{}"}},
]
TOOLS = [{"type": "function", "function": {"name": name, "parameters": {"type": "object"}}} for name in ("weather", "clock")]
CHAT: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "chat": ({}, {}),
    "chat_usage": ({}, USAGE),
    "chat_tools": ({"tool_calls": CALLS}, {"tools": TOOLS}),
    "chat_choices": ({}, {"n": 2, **USAGE}),
    "chat_logprobs": ({}, {"logprobs": True, "top_logprobs": 1}),
    "chat_length": ({"finish_reason": "length"}, {"max_tokens": 3}),
    # A provider that does not tell usage: the count is ours.
    "chat_counted_usage": ({"usage": False}, USAGE),
    "chat_comment": ({"comment": "PROCESSING"}, {}),
}


@pytest.mark.parametrize("name", CHAT)
def test_chat_stream_is_byte_exact(served: Served, name: str) -> None:
    script, members = CHAT[name]
    served.script(**{"tokens": ["One ", "two ", "three."], **script})
    _, body = served.raw_stream("/v1/chat/completions", {"model": MODEL, "messages": MESSAGES, "stream": True, **members})
    parts = chunks(body)
    validator = jsonschema.Draft202012Validator(chat_chunk(with_usage="stream_options" in members))
    for part in parts:
        validator.validate(part)
    reasons = [choice["finish_reason"] for part in parts for choice in part["choices"] if choice["finish_reason"]]
    assert len(reasons) == members.get("n", 1)
    assert_golden(name, body)


@pytest.mark.parametrize("members", [{}, USAGE], ids=["plain", "usage"])
def test_stream_of_a_built_in_model_has_the_same_shape(served: Served, members: dict[str, Any]) -> None:
    body = {"model": "extractive", "messages": [{"role": "user", "content": "When does the ferry leave?"}], "stream": True}
    headers, raw = served.raw_stream("/v1/chat/completions", {**body, **members})
    assert headers["x-answer-mode"] in {"abstained", "extractive"}
    validator = jsonschema.Draft202012Validator(chat_chunk(with_usage=bool(members)))
    for part in chunks(raw):
        validator.validate(part)


@pytest.mark.parametrize("members", [{}, {**USAGE, "echo": True, "prompt": ["a", "b"]}], ids=["text", "text_usage"])
def test_text_stream_is_byte_exact(served: Served, request: pytest.FixtureRequest, members: dict[str, Any]) -> None:
    _, body = served.raw_stream("/v1/completions", {"model": MODEL, "prompt": "count", "stream": True, **members})
    validator = jsonschema.Draft202012Validator(text_chunk(with_usage="stream_options" in members))
    for part in chunks(body):
        validator.validate(part)
    assert_golden(request.node.callspec.id, body)


@pytest.mark.parametrize(
    ("name", "script", "members"),
    [
        ("responses", {}, {}),
        ("responses_tools", {"tool_calls": CALLS}, {"tools": [{"type": "function", "name": "weather", "parameters": {}}]}),
        ("responses_incomplete", {"finish_reason": "length"}, {"max_output_tokens": 3, "store": False}),
    ],
)
def test_response_stream_is_byte_exact(served: Served, name: str, script: dict[str, Any], members: dict[str, Any]) -> None:
    served.script(**{"tokens": ["One ", "two ", "three."], **script})
    _, body = served.raw_stream("/v1/responses", {"model": MODEL, "input": "count", "stream": True, **members})
    known = TypeAdapter(ResponseStreamEvent)
    found = events(body)
    for number, (kind, data) in enumerate(found):
        event = json.loads(data)
        assert (event["type"], event["sequence_number"]) == (kind, number)
        # The client's own types, without its leniency towards members that are missing.
        known.validate_python(event)
    assert_golden(name, body)


def test_broken_stream_ends_with_an_error_and_without_done(served: Served) -> None:
    served.script(tokens=["One ", "two "], cut_after=1)
    body = {"model": served.failing(), "messages": MESSAGES, "stream": True, "tools": TOOLS}
    _, raw = served.raw_stream("/v1/chat/completions", body)
    *before, (_, last) = events(raw)
    assert set(json.loads(last)) == {"error"}
    assert "[DONE]" not in [data for _, data in before]
    _, raw = served.raw_stream(
        "/v1/responses",
        {"model": served.failing(), "input": "x", "stream": True, "tools": [{**TOOLS[0], **TOOLS[0]["function"]}]},
    )
    name, data = events(raw)[-1]
    assert name == "response.failed"
    assert json.loads(data)["response"]["error"]["code"] == "server_error"


def test_sources_for_open_webui_come_only_when_asked_for(served: Served) -> None:
    text = "The ferry to Tornby leaves at half past seven from pier 12 every morning."
    served.api.indexed("ferry.txt", text.encode())
    question = [{"role": "user", "content": "When and where does the ferry to Tornby leave?"}]
    body = {"model": "extractive", "messages": question, "stream": True}
    _, plain = served.raw_stream("/v1/chat/completions", body)
    citations = [
        entry for part in chunks(plain) for choice in part["choices"] for entry in choice["delta"].get("annotations", ())
    ]
    assert citations
    _, raw = served.raw_stream("/v1/chat/completions", body, **{"X-Citations-Format": "openwebui"})
    found = [part for part in chunks(raw) if "event" in part]
    assert [part["event"]["type"] for part in found] == ["source"] * len(citations)
    assert next(part for part in chunks(raw) if "event" not in part).keys() == chunks(plain)[0].keys()
    source = found[0]["event"]["data"]
    assert "half past seven" in source["document"][0]
    assert source["source"]["url"] == citations[0]["url_citation"]["url"]
