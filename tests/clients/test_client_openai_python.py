"""The unmodified `openai` package for Python."""

from __future__ import annotations

import base64
import json
import struct
from typing import Any

import openai
import pydantic
import pytest
from api import wait_for
from conftest import TOKENS, Served

MODEL, EMBEDDER = "scripted/writer", "scripted/embedder"
MESSAGES: list[Any] = [{"role": "user", "content": "count"}]
TEXT = "".join(TOKENS)
CALL = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Tornby"}'}}
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"], "additionalProperties": False}


def test_models(served: Served) -> None:
    client = served.sdk()
    assert {model.id for model in client.models.list()} >= {MODEL, "grounded", "news", "docs", "extractive"}
    assert client.models.retrieve(MODEL).owned_by == "scripted"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("nothing")


def test_everything_a_client_sends_reaches_the_provider(served: Served) -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA", "detail": "low"}}
    members: dict[str, Any] = {
        "messages": [
            {"role": "developer", "content": "Be short."},
            {"role": "user", "content": [{"type": "text", "text": "x"}, image]},
        ],
        "tools": [{"type": "function", "function": {"name": "weather", "parameters": PARAMETERS}}],
        "tool_choice": {"type": "function", "function": {"name": "weather"}},
        "parallel_tool_calls": False,
        "response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": PARAMETERS, "strict": True}},
        "n": 2,
        "stop": ["END"],
        "seed": 7,
        "logprobs": True,
        "top_logprobs": 2,
        "logit_bias": {"50256": -100},
        "frequency_penalty": 0.5,
        "presence_penalty": 0.25,
        "temperature": 0.1,
        "top_p": 0.9,
        "user": "u-1",
        "metadata": {"purpose": "test"},
        "service_tier": "auto",
        "max_completion_tokens": 50,
        "reasoning_effort": "low",
        "store": False,
    }
    served.sdk().chat.completions.create(model=MODEL, **members)
    asked = served.asked()
    kept_here = {"metadata", "service_tier", "store"}
    assert not kept_here & asked.keys()
    assert {name: asked.get(name) for name in members.keys() - kept_here} == {
        name: value for name, value in members.items() if name not in kept_here
    }


def test_chat_with_headers_about_the_answer(served: Served) -> None:
    raw = served.sdk().chat.completions.with_raw_response.create(model=MODEL, messages=MESSAGES, n=2, logprobs=True)
    answer = raw.parse()
    assert [choice.message.content for choice in answer.choices] == [TEXT, TEXT]
    assert answer.usage is not None
    assert answer.usage.total_tokens == 10
    assert answer.choices[0].logprobs is not None
    assert raw.headers["x-answer-mode"] == "generated"
    assert raw.headers["x-provider-path"] == MODEL
    assert int(raw.headers["x-cost-micros"]) >= 0
    assert float(raw.headers["x-overhead-ms"]) >= 0


def test_stream_helper_tools_and_structured_output(served: Served) -> None:
    class Place(pydantic.BaseModel):
        city: str

    client = served.sdk()
    with client.chat.completions.stream(model=MODEL, messages=MESSAGES, stream_options={"include_usage": True}) as stream:
        assert "".join(event.delta for event in stream if event.type == "content.delta") == TEXT
        final = stream.get_final_completion()
    assert final.usage is not None
    served.script(tokens=['{"city":', '"Tornby"}'])
    parsed = client.chat.completions.parse(model=MODEL, messages=MESSAGES, response_format=Place)
    assert parsed.choices[0].message.parsed == Place(city="Tornby")
    served.script(tool_calls=[CALL])
    tool: Any = openai.pydantic_function_tool(Place, name="weather")
    called = client.chat.completions.parse(model=MODEL, messages=MESSAGES, tools=[tool])
    calls = called.choices[0].message.tool_calls
    assert calls is not None
    assert calls[0].function.parsed_arguments == Place(city="Tornby")


def test_built_in_models_keep_to_max_tokens_and_stop(served: Served) -> None:
    served.api.indexed("tide.txt", b"The tide table of Tornby names two high waters for every day of the week.\n")
    question: list[Any] = [{"role": "user", "content": "What does the tide table of Tornby name?"}]
    client = served.sdk()
    whole = client.chat.completions.create(model="extractive", messages=question)
    assert whole.choices[0].message.annotations
    short = client.chat.completions.create(model="extractive", messages=question, max_tokens=4)
    assert short.choices[0].finish_reason == "length"
    assert short.usage is not None
    assert short.usage.completion_tokens <= 4
    stopped = client.chat.completions.create(model="extractive", messages=question, stop="[1]")
    assert stopped.choices[0].finish_reason == "stop"
    assert "[1]" not in (stopped.choices[0].message.content or "")
    assert not stopped.choices[0].message.annotations


def test_text_completions(served: Served) -> None:
    client = served.sdk()
    answer = client.completions.create(model=MODEL, prompt=["a", "b"], n=2, echo=True, max_tokens=9, stop=["\n"])
    assert [(choice.index, choice.text) for choice in answer.choices] == [
        (0, f"a{TEXT}"),
        (1, f"a{TEXT}"),
        (2, f"b{TEXT}"),
        (3, f"b{TEXT}"),
    ]
    assert answer.usage is not None
    assert answer.usage.total_tokens == 20
    assert served.asked()["max_tokens"] == 9
    stream = client.completions.create(model=MODEL, prompt="a", stream=True)
    assert "".join(chunk.choices[0].text for chunk in stream) == TEXT
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model=MODEL, prompt="a", suffix="b")
    assert caught.value.param == "suffix"


def test_embeddings(served: Served) -> None:
    client = served.sdk()
    # The client asks for base64 by itself; this provider answers with numbers whatever it is asked.
    answer = client.embeddings.create(model=EMBEDDER, input=["ab", "abcd"], dimensions=2)
    assert [entry.embedding for entry in answer.data] == [[2.0, 1.0], [4.0, 2.0]]
    assert answer.usage.prompt_tokens == 7
    assert (answer.model, served.asked()["dimensions"]) == (EMBEDDER, 2)
    encoded: Any = client.embeddings.create(model=EMBEDDER, input="ab", dimensions=2, encoding_format="base64").data[0].embedding
    assert struct.unpack("<2f", base64.b64decode(encoded)) == (2.0, 1.0)
    floats = client.embeddings.create(model=EMBEDDER, input=[[1, 2, 3]], dimensions=1, encoding_format="float")
    assert floats.data[0].embedding == [3.0]
    assert served.asked()["input"] == [1, 2, 3]
    for model in ("nothing", "extractive"):
        with pytest.raises(openai.APIStatusError) as caught:
            client.embeddings.create(model=model, input="x")
        assert caught.value.status_code in {400, 404}
    served.script(wrong_json='{"data": [{"index": 5, "embedding": [1]}]}')
    with pytest.raises(openai.InternalServerError):
        client.embeddings.create(model=served.failing("embedder"), input="x")


def test_moderations(served: Served) -> None:
    answer = served.sdk().moderations.create(model="omni-moderation-latest", input=["fine weather", "I will kill you"])
    assert [result.flagged for result in answer.results] == [False, True]
    assert answer.results[1].categories.harassment_threatening
    assert answer.results[1].category_scores.harassment_threatening >= 0.5
    assert answer.model == "wireroom-moderation-rules-v1"
    assert served.provider.get("/state")["requests"] == []


def test_responses_are_kept_and_continued(served: Served) -> None:
    client = served.sdk()
    first = client.responses.create(model=MODEL, input="Hi", instructions="Count.", metadata={"a": "b"}, max_output_tokens=50)
    assert (first.output_text, first.status, first.metadata) == (TEXT, "completed", {"a": "b"})
    assert first.usage is not None
    assert first.usage.total_tokens == 10
    second = client.responses.create(model=MODEL, input=[{"role": "user", "content": "More"}], previous_response_id=first.id)
    # Instructions are those of one response; the conversation is the whole one.
    assert served.asked()["messages"] == [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": TEXT},
        {"role": "user", "content": "More"},
    ]
    assert client.responses.retrieve(second.id) == second
    items = list(client.responses.input_items.list(second.id, order="asc", limit=1))
    assert [item.content[0].text for item in items] == ["More"]  # type: ignore[union-attr] - a message
    client.responses.delete(first.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(first.id)
    with pytest.raises(openai.BadRequestError) as caught:
        client.responses.create(model=MODEL, input="On", previous_response_id=second.id)
    assert (caught.value.code, caught.value.param) == ("previous_response_not_found", "previous_response_id")


def test_a_response_is_its_owners_and_only_if_it_is_stored(served: Served) -> None:
    client = served.sdk()
    kept = client.responses.create(model=MODEL, input="Hi")
    colleague = served.colleague
    for method, path in (("GET", ""), ("DELETE", ""), ("GET", "/input_items")):
        assert colleague.call(method, f"/v1/responses/{kept.id}{path}").status == 404
    mine = {"model": MODEL, "input": "x", "previous_response_id": kept.id}
    assert colleague.call("POST", "/v1/responses", mine).status == 400
    assert client.responses.retrieve(kept.id).output_text == TEXT
    unkept = client.responses.create(model=MODEL, input="Hi", store=False)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(unkept.id)


def test_responses_stream_and_function_calls(served: Served) -> None:
    client = served.sdk()
    with client.responses.stream(model=MODEL, input="Hi") as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_response()
    assert (kinds[0], kinds[-1], final.output_text) == ("response.created", "response.completed", TEXT)
    assert client.responses.retrieve(final.id).output_text == TEXT
    served.script(tool_calls=[CALL])
    tool: Any = {"type": "function", "name": "weather", "parameters": PARAMETERS, "strict": True}
    called = client.responses.create(model=MODEL, input="Weather?", tools=[tool])
    call: Any = called.output[0]
    assert (call.name, json.loads(call.arguments)) == ("weather", {"city": "Tornby"})
    served.script(tokens=TOKENS)
    output: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "Rain."}
    told = client.responses.create(model=MODEL, input=[output], previous_response_id=called.id)
    assert told.output_text == TEXT
    assert [message["role"] for message in served.asked()["messages"]] == ["user", "assistant", "tool"]


def test_responses_with_json_and_citations(served: Served) -> None:
    class Place(pydantic.BaseModel):
        city: str

    client = served.sdk()
    served.script(tokens=['{"city":', '"Tornby"}'])
    assert client.responses.parse(model=MODEL, input="Where?", text_format=Place).output_parsed == Place(city="Tornby")
    served.api.indexed("pilot.txt", b"The pilot station of Tornby stands on the northern mole of the harbour.\n")
    answer = client.responses.create(model="extractive", input="Where does the pilot station of Tornby stand?")
    message: Any = answer.output[0]
    citation = message.content[0].annotations[0]
    assert citation.type == "url_citation"
    assert "northern mole" in answer.output_text[citation.start_index : citation.end_index]


def test_embeddings_are_settled_like_completions(served: Served) -> None:
    served.script(prompt_tokens=4321)
    served.sdk().embeddings.create(model=EMBEDDER, input=["ab", "cd"])

    def settled() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = served.api.get("/api/v1/events?page_size=100")["events"]
        return [event for event in found if event["type"] == "chat.completion.completed" and "4321" in json.dumps(event)]

    events = wait_for(settled)
    assert EMBEDDER in json.dumps(events)


def test_the_built_in_embedding_model(served: Served) -> None:
    client = served.sdk()
    assert client.models.retrieve("minilm-l6-v2").model_dump()["type"] == "embedding"
    answer = client.embeddings.create(model="minilm-l6-v2", input=["The harbour master", "The master of the harbour", "Tax law"])
    first, second, other = (entry.embedding for entry in answer.data)
    assert {len(first), len(second), len(other)} == {384}

    def similarity(one: list[float], another: list[float]) -> float:
        return sum(left * right for left, right in zip(one, another, strict=True))

    assert similarity(first, first) == pytest.approx(1, abs=1e-3)
    assert similarity(first, second) > similarity(first, other) + 0.3
    assert answer.usage.prompt_tokens > 0
    for wrong in ({"dimensions": 8, "input": "x"}, {"input": [[1, 2]]}):
        with pytest.raises(openai.BadRequestError):
            client.embeddings.create(model="minilm-l6-v2", **wrong)
