"""With a language model behind it: grounded generation, streams passed through, a client that leaves, a drain at SIGTERM."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import openai
import pytest
from api import Api, wait_for
from conftest import PROVIDER_KEY, Installation
from harness import Deployment, Running

HELLO = ["One ", "two ", "three ", "four."]


@dataclass(frozen=True)
class WithProvider:
    running: Running
    api: Api
    provider: Api

    def sdk(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.api.base_url}/v1", api_key=self.api.key, timeout=60, max_retries=0)

    def live(self) -> int:
        return int(self.provider.get("/state")["live"])


@pytest.fixture
def asked(served: Installation, provider: Api) -> WithProvider:
    provider.post("/reset", {})
    return WithProvider(served.running, served.admin, provider)


def test_stream_of_a_provider_is_passed_through(asked: WithProvider) -> None:
    asked.provider.post("/script", {"tokens": HELLO})
    stream = asked.sdk().chat.completions.create(
        model="scripted/writer", messages=[{"role": "user", "content": "count"}], stream=True
    )
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == "".join(HELLO)
    assert {model.id for model in asked.sdk().models.list()} >= {"scripted/writer", "grounded", "extractive"}


def test_unsupported_and_invented_citations_of_a_model_are_taken_out(
    asked: WithProvider, make_pdf: Callable[[Sequence[str]], bytes]
) -> None:
    asked.api.indexed("ferry.pdf", make_pdf(["The ferry to Tornby leaves at half past seven from pier 12 every morning."]))
    answer = (
        "The ferry to Tornby leaves at half past seven from pier 12 every morning [1]. It is green [1]. The captain is Jon [9]."
    )
    asked.provider.post("/script", {"tokens": [answer]})
    completion = asked.sdk().chat.completions.create(
        model="grounded", messages=[{"role": "user", "content": "When and where does the ferry to Tornby leave?"}]
    )
    message = completion.choices[0].message
    assert message.content
    assert "pier 12" in message.content
    assert "[9]" not in message.content
    assert len(message.annotations or []) == 1
    assert "green" not in message.content


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "json"])
def test_client_that_leaves_ends_the_generation_at_the_provider(asked: WithProvider, *, stream: bool) -> None:
    asked.provider.post("/script", {"tokens": ["word "] * 1000, "token_delay": 0.05, "first_byte_delay": 0.0 if stream else 30.0})
    host = asked.api.base_url.removeprefix("http://")
    connection = http.client.HTTPConnection(host, timeout=30)
    body = {"model": "scripted/writer", "stream": stream, "messages": [{"role": "user", "content": "write"}]}
    headers = {"Authorization": f"Bearer {asked.api.key}", "Content-Type": "application/json"}
    cancelled = "/api/v1/events?type=chat.completion.cancelled&page_size=500"
    before = len(asked.api.get(cancelled)["events"])
    connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
    wait_for(lambda: asked.live() == 1)
    if stream:
        assert connection.getresponse().read(20)
    connection.close()
    wait_for(lambda: asked.live() == 0)
    wait_for(lambda: len(asked.api.get(cancelled)["events"]) == before + 1)


def test_provider_that_fails_is_an_openai_error_without_its_text(asked: WithProvider) -> None:
    asked.provider.post("/script", {"status": 500, "error_body": '{"error": {"message": "secret stack trace"}}'})
    with pytest.raises(openai.APIStatusError) as caught:
        asked.sdk().chat.completions.create(model="scripted/writer", messages=[{"role": "user", "content": "count"}])
    assert caught.value.status_code == 503
    assert "secret stack trace" not in str(caught.value)


def test_secrets_and_prompts_are_in_no_log(asked: WithProvider) -> None:
    asked.provider.post("/script", {"tokens": ["canary-answer-7d1e"]})
    asked.sdk().chat.completions.create(model="scripted/writer", messages=[{"role": "user", "content": "canary-prompt-93ab"}])
    logs = "".join(asked.running.log(role) for role in asked.running.processes)
    for canary in (PROVIDER_KEY, "canary-prompt-93ab", "canary-answer-7d1e", asked.api.key, "correct horse battery staple"):
        assert canary not in logs


@pytest.mark.timeout(120)
def test_stream_under_way_finishes_when_the_process_is_told_to_stop(asked: WithProvider) -> None:
    asked.provider.post("/script", {"tokens": ["word "] * 40, "token_delay": 0.05})
    stream = iter(
        asked.sdk().chat.completions.create(model="scripted/writer", messages=[{"role": "user", "content": "write"}], stream=True)
    )
    text = next(stream).choices[0].delta.content or ""
    role = "all" if asked.running.deployment is Deployment.EMBEDDED else "gateway"
    statuses: list[int] = []
    stopping = threading.Thread(target=lambda: statuses.append(asked.running.terminate(role)))
    stopping.start()
    finish = None
    for chunk in stream:
        text += chunk.choices[0].delta.content or ""
        finish = chunk.choices[0].finish_reason or finish
    stopping.join(60)
    # The journeys after this one use it too.
    asked.running.start(role)
    asked.running.wait_ready()
    assert (text, finish, statuses) == ("word " * 40, "stop", [0])
