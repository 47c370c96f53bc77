"""Both wires against the scripted provider, and the mapping between them against golden requests and answers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from wireroom_chat.adapters.providers.anthropic import AnthropicProvider
from wireroom_chat.adapters.providers.anthropic_mapping import ChunkMapper, completion, messages_request, without_repeated
from wireroom_chat.adapters.providers.http import Endpoint, ProviderHttp, ProviderSessions
from wireroom_chat.adapters.providers.openai import OpenAiProvider
from wireroom_chat.adapters.providers.rate_limits import LONGEST, exhausted_for, reset_seconds, retry_after
from wireroom_chat.domain.provider_timeouts import ProviderTimeouts
from wireroom_common.clock import SystemClock
from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_common.testing import eventually
from wireroom_common.testing.scripted_provider import ScriptedProvider

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
HELLO: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
CALL = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Lindau"}'}}
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
PIXEL = "iVBORw0KGgo="


class Wires:
    def __init__(self, scripted: ScriptedProvider, sessions: ProviderSessions) -> None:
        self.scripted = scripted
        self.exhausted: list[tuple[str, float]] = []
        timeouts = ProviderTimeouts(1.0, 2.0, 2.0, 2.0)

        def http(headers: dict[str, str]) -> ProviderHttp:
            endpoint = Endpoint("p", scripted.base_url, headers, timeouts)
            return ProviderHttp(
                endpoint, sessions, SystemClock(), exhausted=lambda model, seconds: self.exhausted.append((model, seconds))
            )

        self.openai = OpenAiProvider(http({"Authorization": "Bearer sk-1"}))
        self.anthropic = AnthropicProvider(http({"x-api-key": "sk-2"}), SystemClock(), {"m": 512})


@asynccontextmanager
async def wires() -> AsyncIterator[Wires]:
    sessions = ProviderSessions(max_connections=20)
    await sessions.start()
    try:
        async with ScriptedProvider() as scripted:
            yield Wires(scripted, sessions)
    finally:
        await sessions.stop()


async def _all(provider: OpenAiProvider | AnthropicProvider, body: dict[str, Any]) -> list[dict[str, Any]]:
    async with aclosing(provider.stream({**body, "stream": True, "stream_options": {"include_usage": True}})) as chunks:
        return [chunk async for chunk in chunks]


def _text(chunks: list[dict[str, Any]]) -> str:
    return "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"])


@pytest.mark.parametrize("wire", ["openai", "anthropic"])
async def test_both_wires_give_openai_shapes_with_the_providers_figures(wire: str) -> None:
    async with wires() as w:
        provider = getattr(w, wire)
        w.scripted.script(tokens=["Hel", "lo", "!"], prompt_tokens=11)
        whole = ChatCompletion.model_validate(await provider.complete(HELLO))
        assert (whole.choices[0].message.content, whole.choices[0].finish_reason) == ("Hello!", "stop")
        assert whole.usage is not None
        assert (whole.usage.prompt_tokens, whole.usage.completion_tokens, whole.usage.total_tokens) == (11, 3, 14)
        chunks = [ChatCompletionChunk.model_validate(chunk) for chunk in await _all(provider, HELLO)]
        assert "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices) == "Hello!"
        assert [choice.finish_reason for chunk in chunks for choice in chunk.choices if choice.finish_reason] == ["stop"]
        assert chunks[-1].usage is not None
        assert (chunks[-1].usage.prompt_tokens, chunks[-1].usage.completion_tokens) == (11, 3)
        assert [vars(item) for item in w.scripted.bill] == [
            {"model": "m", "prompt_tokens": 11, "completion_tokens": 3, "status": "completed"}
        ] * 2
        assert {item.authorization for item in w.scripted.requests} == {"Bearer sk-1" if wire == "openai" else "sk-2"}


@pytest.mark.parametrize("wire", ["openai", "anthropic"])
async def test_tool_calls_on_both_wires(wire: str) -> None:
    async with wires() as w:
        provider = getattr(w, wire)
        w.scripted.script(tokens=["x"], tool_calls=[CALL, {**CALL, "id": "call_2"}])
        body = {**HELLO, "tools": [TOOL]}
        whole = ChatCompletion.model_validate(await provider.complete(body))
        assert whole.choices[0].finish_reason == "tool_calls"
        calls = whole.choices[0].message.tool_calls or []
        assert [call.id for call in calls] == ["call_1", "call_2"]
        names: dict[int, str] = {}
        arguments: dict[int, str] = {}
        for chunk in await _all(provider, body):
            for choice in chunk["choices"]:
                for call in choice["delta"].get("tool_calls") or []:
                    names[call["index"]] = call["function"].get("name") or names[call["index"]]
                    arguments[call["index"]] = arguments.get(call["index"], "") + call["function"].get("arguments", "")
        assert names == {0: "weather", 1: "weather"}
        assert arguments == {0: '{"city": "Lindau"}', 1: '{"city": "Lindau"}'}


@pytest.mark.parametrize("wire", ["openai", "anthropic"])
@pytest.mark.parametrize(
    ("script", "kind", "code"),
    [
        ({"status": 401}, ErrorKind.UNAVAILABLE, "provider_refused"),
        ({"status": 404}, ErrorKind.UNAVAILABLE, "provider_misconfigured"),
        ({"status": 429, "headers": {"Retry-After": "7"}}, ErrorKind.RATE_LIMITED, "provider_rate_limited"),
        ({"status": 400}, ErrorKind.INVALID, "provider_rejected_request"),
        ({"status": 529}, ErrorKind.UNAVAILABLE, "provider_unavailable"),
        ({"wrong_json": '{"hello": 1}'}, ErrorKind.UNAVAILABLE, "provider_invalid"),
        ({"cut_after": 1}, ErrorKind.UNAVAILABLE, "provider_unavailable"),
        ({"reset_after": 1}, ErrorKind.UNAVAILABLE, "provider_unavailable"),
        ({"invalid_after": 1}, ErrorKind.UNAVAILABLE, "provider_invalid"),
        ({"stall_after": 0}, ErrorKind.DEADLINE, "provider_timeout"),
    ],
)
async def test_failures_of_streams_have_the_same_names_on_both_wires(
    wire: str, script: dict[str, Any], kind: ErrorKind, code: str
) -> None:
    async with wires() as w:
        w.scripted.script(**{"error_body": '{"error":{"message":"inner secret"}}', **script})
        with pytest.raises(WireroomError) as caught:
            await _all(getattr(w, wire), HELLO)
        assert (caught.value.kind, caught.value.code) == (kind, code)
        assert "secret" not in caught.value.detail
        if kind is ErrorKind.RATE_LIMITED:
            assert caught.value.retry_after == 7


@pytest.mark.parametrize("wire", ["openai", "anthropic"])
async def test_closed_stream_closes_the_socket_and_the_bill_says_what_was_sent(wire: str) -> None:
    async with wires() as w:
        w.scripted.script(tokens=["a", "b", "c"], stall_after=2)
        stream = getattr(w, wire).stream({**HELLO, "stream": True})
        text = ""
        async for chunk in stream:
            text += _text([chunk])
            if text == "ab":
                break
        assert w.scripted.live == 1
        await stream.aclose()
        await eventually(lambda: (w.scripted.live, w.scripted.cancelled) == (0, 1), within=1)
        assert vars(w.scripted.bill[0]) == {"model": "m", "prompt_tokens": 7, "completion_tokens": 2, "status": "aborted"}


async def test_used_up_limits_in_headers_are_told() -> None:
    async with wires() as w:
        w.scripted.script(headers={"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "1m2s"})
        await w.openai.complete(HELLO)
        w.scripted.script(headers={"x-ratelimit-remaining-requests": "3", "x-ratelimit-reset-requests": "1m2s"})
        await w.openai.complete(HELLO)
        assert w.exhausted == [("m", 62.0)]


async def test_provider_that_refuses_stream_options_is_asked_without_them_once() -> None:
    async with wires() as w:
        w.scripted.script(tokens=["a"], refused_members=["stream_options"])
        assert _text(await _all(w.openai, HELLO)) == "a"
        assert _text(await _all(w.openai, HELLO)) == "a"
        assert ["stream_options" in item.body for item in w.scripted.requests] == [True, False, False]


async def test_bad_request_is_not_repeated_to_a_provider_that_takes_stream_options() -> None:
    async with wires() as w:
        await _all(w.openai, HELLO)
        w.scripted.script(status=400)
        with pytest.raises(WireroomError, match="provider_rejected_request"):
            await _all(w.openai, HELLO)
        assert len(w.scripted.requests) == 2


async def test_embeddings_pass_on_one_wire_and_are_refused_clearly_on_the_other() -> None:
    async with wires() as w:
        answer = await w.openai.embed({"model": "m", "input": ["a", "bb"]})
        assert [len(item["embedding"]) for item in answer["data"]] == [8, 8]
        with pytest.raises(WireroomError) as caught:
            await w.anthropic.embed({"model": "m", "input": "a"})
        assert (caught.value.kind, caught.value.code) == (ErrorKind.INVALID, "embeddings_unsupported")


async def test_quirks_of_openai_like_streams() -> None:
    async with wires() as w:
        w.scripted.script(tokens=["a"], comment="OPENROUTER PROCESSING")
        assert _text(await _all(w.openai, HELLO)) == "a"
    chunk = OpenAiProvider(w.openai._http)._chunk  # noqa: SLF001 - single chunks as those providers send them
    found = chunk(b'{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}],"x_groq":{"id":"r","usage":{"prompt_tokens":3}}}')
    assert found is not None
    assert (found["usage"], "x_groq" in found) == ({"prompt_tokens": 3}, False)
    for told, code in (
        (b'{"choices":[],"x_groq":{"error":"over capacity"}}', "provider_unavailable"),
        (b'{"error":{"code":429,"message":"secret"}}', "provider_rate_limited"),
        (b'{"choices":[{"index":0,"delta":{"content":""}}],"error":{"code":502}}', "provider_unavailable"),
    ):
        with pytest.raises(WireroomError) as caught:
            chunk(told)
        assert caught.value.code == code


def test_golden_request_to_messages() -> None:
    mapped = messages_request(
        "p",
        {
            "model": "claude",
            "messages": [
                {"role": "system", "content": "Be brief."},
                {"role": "developer", "content": [{"type": "text", "text": "In English."}]},
                {
                    "role": "user",
                    "content": [
                        {"type": "text", "text": "What is this?"},
                        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}},
                        {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}},
                    ],
                },
                {"role": "assistant", "content": "Let me look.", "tool_calls": [CALL, {**CALL, "id": "call_2"}]},
                {"role": "tool", "tool_call_id": "call_1", "content": "rain"},
                {"role": "tool", "tool_call_id": "call_2", "content": "sun"},
                {"role": "user", "content": "And?"},
                {"role": "assistant", "content": "It is \n"},
            ],
            "stop": "END",
            "temperature": 1.7,
            "top_p": 0.9,
            "seed": 4,
            "user": "u1",
            "max_completion_tokens": 99,
            "tools": [TOOL],
            "tool_choice": "required",
            "parallel_tool_calls": False,
            "stream": True,
        },
    )
    assert mapped.stripped == " \n"
    assert mapped.body == {
        "model": "claude",
        "max_tokens": 99,
        "system": [{"type": "text", "text": "Be brief."}, {"type": "text", "text": "In English."}],
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "What is this?"},
                    {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PIXEL}},
                    {"type": "image", "source": {"type": "url", "url": "https://example.org/a.png"}},
                ],
            },
            {
                "role": "assistant",
                "content": [
                    {"type": "text", "text": "Let me look."},
                    {"type": "tool_use", "id": "call_1", "name": "weather", "input": {"city": "Lindau"}},
                    {"type": "tool_use", "id": "call_2", "name": "weather", "input": {"city": "Lindau"}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "call_1", "content": [{"type": "text", "text": "rain"}]},
                    {"type": "tool_result", "tool_use_id": "call_2", "content": [{"type": "text", "text": "sun"}]},
                    {"type": "text", "text": "And?"},
                ],
            },
            {"role": "assistant", "content": [{"type": "text", "text": "It is"}]},
        ],
        "stop_sequences": ["END"],
        "temperature": 1,
        "top_p": 0.9,
        "metadata": {"user_id": "u1"},
        "tools": [
            {
                "name": "weather",
                "description": "Of a city",
                "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}},
            }
        ],
        "tool_choice": {"type": "any", "disable_parallel_tool_use": True},
        "stream": True,
    }


@pytest.mark.parametrize(
    ("members", "field"),
    [
        ({"n": 2}, "n"),
        ({"logprobs": True}, "logprobs"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"response_format": {"type": "json_schema", "json_schema": {}}}, "response_format"),
        ({"stop": [" "]}, "stop"),
        ({"messages": [{"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}]}, "messages[0].content[0]"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://a/b"}}]}]},
            "messages[0].content[0]",
        ),
        (
            {"messages": [{"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": "[1"}}]}]},
            "messages[0].tool_calls[0].function.arguments",
        ),
        ({"tools": [{"type": "web_search"}]}, "tools[0]"),
    ],
)
def test_what_the_messages_api_cannot_say_is_refused_with_the_member(members: dict[str, Any], field: str) -> None:
    with pytest.raises(WireroomError) as caught:
        messages_request("p", {**HELLO, **members})
    assert (caught.value.kind, caught.value.code) == (ErrorKind.INVALID, "provider_unsupported")
    assert [problem.field for problem in caught.value.fields] == [field]


def test_golden_answer_of_messages() -> None:
    answer = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "claude-1",
        "content": [
            {"type": "thinking", "thinking": "hm", "signature": "s"},
            {"type": "text", "text": "Look: "},
            {"type": "tool_use", "id": "t1", "name": "weather", "input": {"city": "Lindau"}},
        ],
        "stop_reason": "tool_use",
        "usage": {"input_tokens": 10, "cache_read_input_tokens": 5, "cache_creation_input_tokens": 2, "output_tokens": 4},
    }
    assert completion(answer, 1) == {
        "id": "msg_1",
        "object": "chat.completion",
        "created": 1,
        "model": "claude-1",
        "choices": [
            {
                "index": 0,
                "message": {
                    "role": "assistant",
                    "content": "Look: ",
                    "refusal": None,
                    "tool_calls": [
                        {"id": "t1", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Lindau"}'}}
                    ],
                },
                "logprobs": None,
                "finish_reason": "tool_calls",
            }
        ],
        "usage": {
            "prompt_tokens": 17,
            "completion_tokens": 4,
            "total_tokens": 21,
            "prompt_tokens_details": {"cached_tokens": 5},
        },
    }


def test_tool_without_arguments_streams_an_empty_object() -> None:
    mapper = ChunkMapper(1)
    block = {"type": "tool_use", "id": "t", "name": "now", "input": {}}
    events: list[dict[str, Any]] = [
        {"type": "content_block_start", "index": 0, "content_block": block},
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {"output_tokens": 3}},
    ]
    deltas = [chunk["choices"][0]["delta"] for event in events for chunk in mapper.chunks(event)]
    assert deltas == [
        {"tool_calls": [{"index": 0, "id": "t", "type": "function", "function": {"name": "now", "arguments": ""}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": "{}"}}]},
        {},
    ]


@given(st.text(" \n\ta", max_size=6), st.lists(st.text(" \n\tab", max_size=4), max_size=5))
def test_white_space_taken_from_a_prefill_is_not_doubled(stripped: str, pieces: list[str]) -> None:
    stripped = stripped[len(stripped.rstrip()) :]
    mapper = ChunkMapper(1, stripped)
    streamed = ""
    for piece in pieces:
        event = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": piece}}
        streamed += _text(mapper.chunks(event))
    whole = "".join(pieces)
    assert streamed == without_repeated(whole, stripped)
    assert whole.endswith(streamed)
    assert stripped.startswith(whole[: len(whole) - len(streamed)])


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("1s", 1), ("6m0s", 360), ("20ms", 0.02), ("1h2m3.5s", 3600), ("7", 7), ("1772366410", 10), ("1772366410000", 10),
        ("2026-03-01T12:00:30Z", 30), ("2026-03-01T11:00:00Z", 0), ("soon", 1), ("", 1), ("9999999", LONGEST),
    ],
)  # fmt: skip
def test_reset_times_of_all_families(value: str, seconds: float) -> None:
    assert reset_seconds(value, NOW) == pytest.approx(seconds)


def test_limits_of_which_something_is_left_say_nothing() -> None:
    headers = {"anthropic-ratelimit-requests-remaining": "0", "anthropic-ratelimit-requests-reset": "2026-03-01T12:00:20Z"}
    assert exhausted_for(headers, NOW) == 20
    assert exhausted_for({**headers, "anthropic-ratelimit-requests-remaining": "1"}, NOW) == 0
    assert exhausted_for({"x-ratelimit-remaining-requests": "many"}, NOW) == 0


@given(st.text(max_size=40))
def test_headers_of_any_text_give_bounded_seconds(value: str) -> None:
    assert 0 <= reset_seconds(value, NOW) <= LONGEST
    assert 0 <= retry_after(value, NOW) <= LONGEST
