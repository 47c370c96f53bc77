from __future__ import annotations

import base64
import itertools
import json
import struct
from typing import Any

import pytest
from openai.types import Completion
from openai.types.responses import Response

from wireroom_chat.domain.embeddings import embedding_list, parse_embedding_request
from wireroom_chat.domain.legacy import TextChunks, parse_text_request, text_completion
from wireroom_chat.domain.response_events import ResponseBuilder
from wireroom_chat.domain.response_items import messages_of
from wireroom_chat.domain.responses import ResponseRequest, parse_response_request
from wireroom_common.errors import ErrorKind, WireroomError


def names() -> Any:
    counter = itertools.count(1)
    return lambda prefix: f"{prefix}_{next(counter)}"


def response_request(**members: Any) -> ResponseRequest:
    return parse_response_request(json.dumps({"model": "m", "input": "Hi", **members}).encode(), names())


def builder(**members: Any) -> ResponseBuilder:
    return ResponseBuilder(response_request(**members), response_id="resp_1", created=1.0, new_name=names())


def chunk(delta: dict[str, Any], reason: str | None = None, **more: Any) -> dict[str, Any]:
    return {"id": "c", "created": 1, "choices": [{"index": 0, "delta": delta, "finish_reason": reason}], **more}


def test_a_conversation_of_items_becomes_chat_messages() -> None:
    request = response_request(
        instructions="Be short.",
        input=[
            {"role": "user", "content": [{"type": "input_text", "text": "Look"}, {"type": "input_image", "image_url": "data:x"}]},
            {"type": "reasoning", "id": "rs_1", "summary": []},
            {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Calling.", "annotations": []}]},
            {"type": "function_call", "call_id": "a", "name": "f", "arguments": "{}"},
            {"type": "function_call", "call_id": "b", "name": "g", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "a", "output": "1"},
            {"type": "function_call_output", "call_id": "b", "output": [{"type": "input_text", "text": "2"}]},
        ],
    )
    chat = request.chat_request([], stream=False)
    assert [message["role"] for message in chat.messages] == ["system", "user", "assistant", "tool", "tool"]
    assert chat.messages[1]["content"][1] == {"type": "image_url", "image_url": {"url": "data:x"}}
    assert [call["id"] for call in chat.messages[2]["tool_calls"]] == ["a", "b"]
    assert chat.messages[4] == {"role": "tool", "tool_call_id": "b", "content": "2"}


def test_members_of_a_response_request_become_those_of_a_chat_request() -> None:
    schema = {"type": "object", "properties": {}}
    request = response_request(
        max_output_tokens=9,
        temperature=0.5,
        tools=[{"type": "function", "name": "f", "parameters": schema, "strict": True}],
        tool_choice={"type": "function", "name": "f"},
        parallel_tool_calls=False,
        text={"format": {"type": "json_schema", "name": "s", "schema": schema, "strict": True}},
        reasoning={"effort": "low"},
        top_logprobs=2,
        grounding={"sources": ["docs"]},
    )
    chat = request.chat_request([], stream=True)
    assert chat.raw["max_completion_tokens"] == 9
    assert chat.raw["tools"] == [{"type": "function", "function": {"name": "f", "parameters": schema, "strict": True}}]
    assert chat.raw["tool_choice"] == {"type": "function", "function": {"name": "f"}}
    assert chat.raw["response_format"] == {"type": "json_schema", "json_schema": {"name": "s", "schema": schema, "strict": True}}
    assert (chat.raw["parallel_tool_calls"], chat.raw["reasoning_effort"], chat.raw["top_logprobs"]) == (False, "low", 2)
    assert chat.include_usage
    assert chat.grounding is not None


@pytest.mark.parametrize(
    ("members", "field"),
    [
        ({"input": []}, "input"),
        ({"input": [{"role": "robot", "content": "x"}]}, "input[0].role"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0].type"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "f"}]}]}, "input[0].content[0]"),
        ({"background": True}, "background"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"prompt": {"id": "p"}}, "prompt"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"text": {"format": {"type": "xml"}}}, "text.format.type"),
        ({"metadata": {"a": 1}}, "metadata"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"store": "yes"}, "store"),
    ],
)
def test_what_a_response_cannot_do_is_refused_by_name(members: dict[str, Any], field: str) -> None:
    with pytest.raises(WireroomError) as caught:
        response_request(**members)
    assert caught.value.kind is ErrorKind.INVALID
    assert field in [problem.field for problem in caught.value.fields]


def test_events_of_a_text_with_a_citation() -> None:
    made = builder()
    citation = {"type": "url_citation", "url_citation": {"url": "u", "title": "t", "start_index": 0, "end_index": 2}}
    chunks = [
        chunk({"role": "assistant", "content": ""}),
        chunk({"content": "Hel"}),
        chunk({"content": "lo", "annotations": [citation]}),
        chunk({}, "stop"),
        {"id": "c", "choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}},
    ]
    events = [*made.opening(), *(event for part in chunks for event in made.chunk(part)), *made.closing()]
    events.append(made.ended(made.finished(2.0)))
    assert [event.type.removeprefix("response.") for event in events] == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.delta",
        "output_text.annotation.added",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]
    assert [event.members["sequence_number"] for event in events] == list(range(11))
    response = Response.model_validate(events[-1].members["response"], strict=False)
    assert response.output_text == "Hello"
    assert response.usage is not None
    assert response.usage.total_tokens == 5
    assert response.output[0].content[0].annotations[0].end_index == 2  # type: ignore[union-attr] - a message with a citation


def test_events_of_function_calls_and_the_same_from_a_whole_answer() -> None:
    streamed, whole = builder(), builder()
    chunks = [
        chunk(
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [{"index": 0, "id": "a", "function": {"name": "f", "arguments": ""}}],
            }
        ),
        chunk({"tool_calls": [{"index": 0, "function": {"arguments": '{"x"'}}]}),
        chunk({"tool_calls": [{"index": 0, "function": {"arguments": ":1}"}}]}),
        chunk({"tool_calls": [{"index": 1, "id": "b", "function": {"name": "g", "arguments": "{}"}}]}),
        chunk({}, "tool_calls"),
    ]
    events = [event for part in chunks for event in streamed.chunk(part)] + list(streamed.closing())
    assert [event.type for event in events if event.type.endswith(".done")] == [
        "response.function_call_arguments.done",
        "response.output_item.done",
    ] * 2
    calls = [
        {"id": "a", "type": "function", "function": {"name": "f", "arguments": '{"x":1}'}},
        {"id": "b", "type": "function", "function": {"name": "g", "arguments": "{}"}},
    ]
    message = {"role": "assistant", "content": None, "tool_calls": calls}
    whole.take({"choices": [{"index": 0, "message": message, "finish_reason": "tool_calls"}]})
    assert streamed.finished(2.0) == whole.finished(2.0)
    output = whole.finished(2.0)["output"]
    assert [(item["name"], item["arguments"], item["call_id"]) for item in output] == [("f", '{"x":1}', "a"), ("g", "{}", "b")]
    assert messages_of(output) == [{"role": "assistant", "content": None, "tool_calls": calls}]


def test_a_cut_answer_is_incomplete_and_a_broken_one_failed() -> None:
    cut = builder()
    list(cut.chunk(chunk({"content": "Hel"}, "length")))
    response = cut.finished(2.0)
    assert (response["status"], response["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    assert response["output"][0]["status"] == "incomplete"
    failed = builder().failed(WireroomError(ErrorKind.RATE_LIMITED, "busy", "Too busy."))
    assert (failed["status"], failed["error"]) == ("failed", {"code": "rate_limit_exceeded", "message": "Too busy."})
    assert "secret" not in json.dumps(builder().failed(WireroomError(ErrorKind.INTERNAL, "x", "secret")))


def test_prompts_become_chats_and_their_answers_one_completion() -> None:
    body = {"model": "m", "prompt": ["A", "B"], "n": 2, "echo": True, "stop": ["\n"], "best_of": 2}
    request = parse_text_request(json.dumps(body).encode(), stream=False)
    assert [chat.messages[0]["content"] for chat in request.chats] == ["A", "B"]
    assert [(chat.raw["n"], chat.raw["stop"], chat.raw["max_tokens"]) for chat in request.chats] == [(2, ["\n"], 16)] * 2

    def answer(text: str) -> dict[str, Any]:
        choices = [{"index": index, "message": {"content": f"{text}{index}"}, "finish_reason": "stop"} for index in range(2)]
        return {"id": "chatcmpl-1", "created": 1, "choices": choices, "usage": {"prompt_tokens": 1, "completion_tokens": 2}}

    completion = Completion.model_validate_json(text_completion(request, [answer("x"), answer("y")]))
    assert [(choice.index, choice.text) for choice in completion.choices] == [(0, "Ax0"), (1, "Ax1"), (2, "By0"), (3, "By1")]
    assert completion.id == "cmpl-1"
    assert completion.usage is not None
    assert completion.usage.total_tokens == 6


def test_chunks_of_a_text_stream() -> None:
    body = {"model": "m", "prompt": "A", "echo": True, "stream_options": {"include_usage": True}}
    request = parse_text_request(json.dumps(body).encode(), stream=True)
    chunks = TextChunks(request)
    assert list(chunks.of(0, chunk({"role": "assistant", "content": ""}))) == []
    parts = [*chunks.opening(0), *chunks.of(0, chunk({"content": "x"})), *chunks.of(0, chunk({}, "length"))]
    parts += list(chunks.of(0, {"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 1}}))
    parts += list(chunks.ending())
    assert [json.loads(part) for part in parts] == [
        {**HEAD, "choices": [{"text": "A", "index": 0, "logprobs": None, "finish_reason": None}], "usage": None},
        {**HEAD, "choices": [{"text": "x", "index": 0, "logprobs": None, "finish_reason": None}], "usage": None},
        {**HEAD, "choices": [{"text": "", "index": 0, "logprobs": None, "finish_reason": "length"}], "usage": None},
        {**HEAD, "choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}},
    ]


HEAD = {"id": "cmpl-c", "object": "text_completion", "created": 1, "model": "m"}


@pytest.mark.parametrize(
    ("members", "field"),
    [
        ({"prompt": None}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": ["x"] * 17}, "prompt"),
        ({"prompt": [1, 2]}, "prompt"),
        ({"suffix": "end"}, "suffix"),
        ({"logprobs": 2}, "logprobs"),
        ({"best_of": 3}, "best_of"),
        ({"echo": 1}, "echo"),
    ],
)
def test_what_a_text_completion_cannot_do_is_refused_by_name(members: dict[str, Any], field: str) -> None:
    with pytest.raises(WireroomError) as caught:
        parse_text_request(json.dumps({"model": "m", "prompt": "x", **members}).encode(), stream=False)
    assert [problem.field for problem in caught.value.fields] == [field]


@pytest.mark.parametrize("given_base64", [True, False])
@pytest.mark.parametrize("wanted", ["base64", "float"])
def test_vectors_are_given_in_the_encoding_that_was_asked_for(*, given_base64: bool, wanted: str) -> None:
    vectors = [[0.5, -1.25], [2.0, 0.0]]
    packed = [base64.b64encode(struct.pack("<2f", *vector)).decode() for vector in vectors]
    request = parse_embedding_request(json.dumps({"model": "e", "input": ["a", "b"], "encoding_format": wanted}).encode())
    data = [{"index": index, "embedding": (packed if given_base64 else vectors)[index]} for index in (1, 0)]
    answer = embedding_list(request, data, 7)
    assert [item["embedding"] for item in answer["data"]] == (packed if wanted == "base64" else vectors)
    assert answer["usage"] == {"prompt_tokens": 7, "total_tokens": 7}


def test_tokens_and_bounds_of_embedding_inputs() -> None:
    def inputs(value: Any) -> Any:
        return parse_embedding_request(json.dumps({"model": "e", "input": value}).encode())

    assert inputs([1, 2]).inputs == ([1, 2],)
    assert inputs([[1], [2, 3]]).texts() is None
    assert inputs(["a", "b"]).texts() == ["a", "b"]
    for wrong in (None, "", [], [""], ["x"] * 2049, [1.5], [[]], [True], [[-1]], {"a": 1}):
        with pytest.raises(WireroomError) as caught:
            inputs(wrong)
        assert caught.value.fields[0].field.startswith("input")


@pytest.mark.parametrize("embedding", [None, "!", "AAA=", [], ["x"]])
def test_a_provider_that_answers_no_vectors_is_found_out(embedding: Any) -> None:
    request = parse_embedding_request(json.dumps({"model": "e", "input": "a"}).encode())
    with pytest.raises(ValueError, match="vector"):
        embedding_list(request, [{"index": 0, "embedding": embedding}], 1)
