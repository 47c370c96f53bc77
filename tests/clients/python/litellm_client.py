"""The unmodified LiteLLM client against a running installation; prints what each call brought as one JSON object."""

from __future__ import annotations

import json
import os
import sys
import urllib.request
from typing import Any

# Otherwise it fetches a price list when it is imported.
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"

import litellm

GATEWAY, KEY, PROVIDER = sys.argv[1:4]
COMMON: dict[str, Any] = {"api_base": f"{GATEWAY}/v1", "api_key": KEY, "num_retries": 0}
MODEL = "openai/scripted/writer"
MESSAGES = [{"role": "user", "content": "count"}]
CALL = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Tornby"}'}}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}


def script(**members: Any) -> None:
    for path, body in (("/reset", {}), ("/script", members)):
        with urllib.request.urlopen(urllib.request.Request(f"{PROVIDER}{path}", json.dumps(body).encode(), method="POST")):
            pass


def main() -> None:
    litellm.telemetry = False
    litellm.suppress_debug_info = True
    results: dict[str, Any] = {}
    tokens = ["One ", "two ", "three."]
    script(tokens=tokens)
    answer = litellm.completion(model=MODEL, messages=MESSAGES, **COMMON)
    results["chat"] = {"text": answer.choices[0].message.content, "tokens": answer.usage.total_tokens}
    stream = litellm.completion(model=MODEL, messages=MESSAGES, stream=True, stream_options={"include_usage": True}, **COMMON)
    chunks = list(stream)
    results["stream"] = {
        "text": "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices),
        "tokens": next(chunk.usage.total_tokens for chunk in reversed(chunks) if getattr(chunk, "usage", None)),
    }
    script(tool_calls=[CALL])
    called = litellm.completion(model=MODEL, messages=MESSAGES, tools=[TOOL], **COMMON)
    results["tools"] = [call.function.arguments for call in called.choices[0].message.tool_calls]
    script(tokens=tokens)
    text = litellm.text_completion(model="text-completion-openai/scripted/writer", prompt="a", max_tokens=5, **COMMON)
    results["completions"] = text.choices[0].text
    script(dimensions=2)
    vectors = litellm.embedding(model="openai/scripted/embedder", input=["ab", "abcd"], **COMMON)
    results["embeddings"] = [entry["embedding"] for entry in vectors.data]
    script(tokens=tokens)
    response = litellm.responses(model=MODEL, input="Hi", **COMMON)
    results["responses"] = response.output[0].content[0].text
    events = list(litellm.responses(model=MODEL, input="Hi", stream=True, **COMMON))
    results["responses_stream"] = [str(event.type.value if hasattr(event.type, "value") else event.type) for event in events]
    try:
        litellm.completion(model="openai/nothing", messages=MESSAGES, **COMMON)
    except litellm.NotFoundError as error:
        results["unknown_model"] = error.status_code
    sys.stdout.write("\n" + json.dumps(results))


main()
