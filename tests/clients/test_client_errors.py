"""Whatever goes wrong below /v1 is told as OpenAI tells it."""

from __future__ import annotations

import http.client
import json
from typing import Any

import jsonschema
import openai
import pytest
from conftest import Served
from openai_schemas import ERROR

MODEL = "scripted/writer"
MESSAGES: list[Any] = [{"role": "user", "content": "count"}]
CHAT = {"model": MODEL, "messages": MESSAGES}
PATHS = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/moderations", "/v1/responses")


def assert_error(status: int, body: bytes, expected: int, code: str | None = None) -> dict[str, Any]:
    assert status == expected, body
    answer = json.loads(body)
    jsonschema.validate(answer, ERROR)
    assert code is None or answer["error"]["code"] == code
    error: dict[str, Any] = answer["error"]
    return error


@pytest.mark.parametrize("path", PATHS)
def test_refusals_have_the_form_of_openai(served: Served, path: str) -> None:
    api = served.api
    for method, given, headers, expected in (
        ("POST", b"{", {"Content-Type": "application/json"}, 400),
        ("POST", b"[]", {"Content-Type": "application/json"}, 400),
        ("POST", b"{}", {"Content-Type": "application/json"}, 400),
        ("POST", b"{}", {"Content-Type": "text/plain"}, 415),
        ("POST", b"{}", {"Content-Type": "application/json", "Authorization": "Bearer nonsense"}, 401),
        ("PUT", b"{}", {"Content-Type": "application/json"}, 405),
    ):
        reply = api.call(method, path, raw=given, headers=headers)
        assert_error(reply.status, reply.body, expected)
    # What has no end is not read: the announced length is enough.
    connection = http.client.HTTPConnection(api.base_url.removeprefix("http://"), timeout=30)
    connection.putrequest("POST", path)
    for name, value in (
        ("Authorization", f"Bearer {api.key}"),
        ("Content-Type", "application/json"),
        ("Content-Length", "900000000"),
    ):
        connection.putheader(name, value)
    connection.endheaders()
    answer = connection.getresponse()
    assert_error(answer.status, answer.read(), 413)
    connection.close()


def test_unknown_addresses_and_queries_have_the_form_of_openai(served: Served) -> None:
    reply = served.api.call("GET", "/v1/nothing")
    assert assert_error(reply.status, reply.body, 404)["type"] == "invalid_request_error"
    reply = served.api.call("GET", "/v1/responses/resp_x/input_items?limit=1000")
    assert_error(reply.status, reply.body, 422)


def test_the_client_recognises_what_went_wrong(served: Served) -> None:
    client = served.sdk()
    with pytest.raises(openai.NotFoundError) as unknown:
        client.chat.completions.create(model="nothing", messages=MESSAGES)
    assert (unknown.value.code, unknown.value.type) == ("model_not_found", "invalid_request_error")
    with pytest.raises(openai.BadRequestError) as bad:
        client.chat.completions.create(model=MODEL, messages=[{"role": "robot", "content": "x"}])  # type: ignore[misc,list-item] - wrong on purpose
    assert bad.value.param == "messages[0].role"
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(model="grounded", messages=MESSAGES, n=2)
    assert refused.value.param == "n"
    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(base_url=f"{served.api.base_url}/v1", api_key="nonsense", max_retries=0).models.list()


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ({"status": 500}, openai.InternalServerError),
        ({"status": 400}, openai.BadRequestError),
        ({"wrong_json": "{}"}, openai.InternalServerError),
    ],
)
def test_failures_of_a_provider_are_typed_and_say_nothing_of_it(
    served: Served, script: dict[str, Any], expected: type[Exception]
) -> None:
    served.script(**script, error_body='{"error": {"message": "secret stack trace"}}')
    for call in (
        lambda: served.sdk().chat.completions.create(
            model=served.failing(), messages=MESSAGES, extra_body={"disable_fallback": True}
        ),
        lambda: served.sdk().responses.create(
            model=served.failing(), input="x", tools=[{"type": "function", "name": "f", "parameters": {}, "strict": False}]
        ),
    ):
        with pytest.raises(expected) as caught:
            call()
        assert "secret stack trace" not in str(caught.value)
