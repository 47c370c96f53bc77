"""Unmodified clients in environments of their own: `openai` for Node.js, LangChain, LiteLLM."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from client_environments import NODE, node_package, python_environment
from conftest import TOKENS, Served

TEXT = "".join(TOKENS)
USAGE = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
HERE = Path(__file__).resolve().parent


def run(command: list[str], served: Served, folder: Path) -> dict[str, Any]:
    """What the program prints last."""
    done = subprocess.run(
        [*command, served.api.base_url, served.api.key, served.provider.base_url],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={"PATH": os.environ.get("PATH", ""), "HOME": os.environ.get("HOME", "")},
    )
    assert done.returncode == 0, done.stderr[-4000:]
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


@pytest.mark.timeout(600)
def test_openai_for_node(served: Served) -> None:
    found = run([str(NODE), "client.mjs"], served, node_package())
    assert found["models"]["one"] == "scripted/writer"
    assert {"grounded", "extractive"} <= set(found["models"]["ids"])
    assert found["chat"] == {"texts": [TEXT, TEXT], "usage": USAGE}
    assert found["chat_stream"] == {"text": TEXT, "usage": USAGE}
    assert found["chat_stream_helper"] == {"text": TEXT}
    calls = found["tools"]["calls"]
    assert [(call["name"], json.loads(call["arguments"])) for call in calls] == [("weather", {"city": "Tornby"})]
    assert found["tools"]["reason"] == "tool_calls"
    assert found["json_mode"] == {"a": 1}
    assert found["completions"] == {"texts": [f"a{TEXT}", f"b{TEXT}"], "streamed": TEXT}
    assert found["embeddings"]["vectors"] == [[2, 1], [4, 2]]
    assert found["embeddings"]["encoded"] == "string"
    assert found["moderations"] == {"flagged": [False, True], "threatening": True}
    assert found["responses"] == {"text": TEXT, "previous": True, "same": TEXT, "items": ["More"], "gone": "NotFoundError"}
    assert (found["responses_stream"]["events"][0], found["responses_stream"]["events"][-1]) == (
        "response.created",
        "response.completed",
    )
    assert found["responses_stream"]["text"] == TEXT
    assert found["responses_tools"] == [{"type": "function_call", "name": "weather", "arguments": '{"city":"Tornby"}'}]
    assert (found["unknown_model"]["thrown"], found["unknown_model"]["code"]) == ("NotFoundError", "model_not_found")
    assert found["bad_request"]["thrown"] == "BadRequestError"
    assert found["provider_down"]["thrown"] == "InternalServerError"


@pytest.mark.timeout(600)
def test_langchain(served: Served) -> None:
    found = run([str(python_environment()), "langchain_client.py"], served, HERE / "python")
    assert found["chat"]["text"] == TEXT
    assert found["chat"]["usage"]["total_tokens"] == 10
    assert found["stream"]["text"] == TEXT
    assert found["tools"] == [{"name": "weather", "args": {"city": "Tornby"}}]
    assert found["tool_result"] == TEXT
    assert found["structured"] == {"city": "Tornby"}
    assert found["responses"] == [TEXT, TEXT] or [part[0]["text"] for part in found["responses"]] == [TEXT, TEXT]
    assert found["responses_stream"] == TEXT
    assert found["embeddings"] == [[2.0, 1.0], [4.0, 2.0]]


@pytest.mark.timeout(600)
def test_litellm(served: Served) -> None:
    found = run([str(python_environment()), "litellm_client.py"], served, HERE / "python")
    assert found["chat"] == {"text": TEXT, "tokens": 10}
    assert found["stream"] == {"text": TEXT, "tokens": 10}
    assert found["tools"] == ['{"city":"Tornby"}']
    assert found["completions"] == TEXT
    assert found["embeddings"] == [[2.0, 1.0], [4.0, 2.0]]
    assert found["responses"] == TEXT
    assert (found["responses_stream"][0], found["responses_stream"][-1]) == ("response.created", "response.completed")
    assert found["unknown_model"] == 404
