"""With a language model behind it: grounded generation, streams passed through, a client that leaves, a drain at SIGTERM."""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import openai
import pytest
from api import Api, wait_for
from conftest import sign_up
from harness import Deployment, Running, deploy, free_port

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


@pytest.fixture(scope="module")
def provider() -> Iterator[Api]:
    port = free_port()
    process = subprocess.Popen([sys.executable, "-m", "wireroom_common.testing.scripted_provider", "--port", str(port)])
    api = Api(f"http://127.0.0.1:{port}")
    try:
        wait_for(lambda: api.call("GET", "/state").status == 200)
        yield api
    finally:
        process.terminate()
        process.wait(10)


@pytest.fixture(scope="module", params=list(Deployment), ids=lambda deployment: deployment.value)
def served(request: pytest.FixtureRequest, provider: Api) -> Iterator[WithProvider]:
    providers = [{"name": "scripted", "base_url": f"{provider.base_url}/v1", "models": ["writer"], "api_key": "sk-canary-51f2"}]
    with deploy(request.param, {"WIREROOM_CHAT_PROVIDERS": json.dumps(providers)}) as running:
        yield WithProvider(running, sign_up(running), provider)


@pytest.fixture(autouse=True)
def fresh_script(provider: Api) -> None:
    provider.post("/reset", {})


def test_stream_of_a_provider_is_passed_through(served: WithProvider) -> None:
    served.provider.post("/script", {"tokens": HELLO})
    stream = served.sdk().chat.completions.create(
        model="scripted/writer", messages=[{"role": "user", "content": "count"}], stream=True
    )
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == "".join(HELLO)
    assert {model.id for model in served.sdk().models.list()} >= {"scripted/writer", "grounded", "extractive"}


def test_unsupported_and_invented_citations_of_a_model_are_taken_out(
    served: WithProvider, make_pdf: Callable[[Sequence[str]], bytes]
) -> None:
    served.api.indexed("ferry.pdf", make_pdf(["The ferry to Tornby leaves at half past seven from pier 12 every morning."]))
    answer = (
        "The ferry to Tornby leaves at half past seven from pier 12 every morning [1]. It is green [1]. The captain is Jon [9]."
    )
    served.provider.post("/script", {"tokens": [answer]})
    completion = served.sdk().chat.completions.create(
        model="grounded", messages=[{"role": "user", "content": "When and where does the ferry to Tornby leave?"}]
    )
    message = completion.choices[0].message
    assert message.content
    assert "pier 12" in message.content
    assert "[9]" not in message.content
    assert len(message.annotations or []) == 1
    assert "green" not in message.content


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "json"])
def test_client_that_leaves_ends_the_generation_at_the_provider(served: WithProvider, *, stream: bool) -> None:
    served.provider.post(
        "/script", {"tokens": ["word "] * 1000, "token_delay": 0.05, "first_byte_delay": 0.0 if stream else 30.0}
    )
    host = served.api.base_url.removeprefix("http://")
    connection = http.client.HTTPConnection(host, timeout=30)
    body = {"model": "scripted/writer", "stream": stream, "messages": [{"role": "user", "content": "write"}]}
    headers = {"Authorization": f"Bearer {served.api.key}", "Content-Type": "application/json"}
    connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
    wait_for(lambda: served.live() == 1)
    if stream:
        assert connection.getresponse().read(20)
    connection.close()
    wait_for(lambda: served.live() == 0, within=5)
    wait_for(lambda: any(event["type"] == "chat.completion.cancelled" for event in served.api.get("/api/v1/events")["events"]))


def test_provider_that_fails_is_an_openai_error_without_its_text(served: WithProvider) -> None:
    served.provider.post("/script", {"status": 500, "error_body": '{"error": {"message": "secret stack trace"}}'})
    with pytest.raises(openai.APIStatusError) as caught:
        served.sdk().chat.completions.create(model="scripted/writer", messages=[{"role": "user", "content": "count"}])
    assert caught.value.status_code == 503
    assert "secret stack trace" not in str(caught.value)


def test_secrets_and_prompts_are_in_no_log(served: WithProvider) -> None:
    served.provider.post("/script", {"tokens": ["canary-answer-7d1e"]})
    served.sdk().chat.completions.create(model="scripted/writer", messages=[{"role": "user", "content": "canary-prompt-93ab"}])
    logs = "".join(served.running.log(role) for role in served.running.processes)
    for canary in ("sk-canary-51f2", "canary-prompt-93ab", "canary-answer-7d1e", served.api.key, "correct horse battery staple"):
        assert canary not in logs


@pytest.mark.timeout(120)
def test_stream_under_way_finishes_when_the_process_is_told_to_stop(served: WithProvider) -> None:
    served.provider.post("/script", {"tokens": ["word "] * 40, "token_delay": 0.05})
    stream = iter(
        served.sdk().chat.completions.create(
            model="scripted/writer", messages=[{"role": "user", "content": "write"}], stream=True
        )
    )
    text = next(stream).choices[0].delta.content or ""
    role = "all" if served.running.deployment is Deployment.EMBEDDED else "gateway"
    statuses: list[int] = []
    stopping = threading.Thread(target=lambda: statuses.append(served.running.terminate(role)))
    stopping.start()
    finish = None
    for chunk in stream:
        text += chunk.choices[0].delta.content or ""
        finish = chunk.choices[0].finish_reason or finish
    stopping.join(60)
    assert (text, finish, statuses) == ("word " * 40, "stop", [0])
