"""LangChain's unmodified OpenAI classes against a running installation; prints what each call brought as one JSON object."""

from __future__ import annotations

import json
import sys
import urllib.request
from typing import Any

from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_openai import ChatOpenAI, OpenAIEmbeddings

GATEWAY, KEY, PROVIDER = sys.argv[1:4]
COMMON: dict[str, Any] = {"base_url": f"{GATEWAY}/v1", "api_key": KEY, "max_retries": 0}
CALL = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Tornby"}'}}


def script(**members: Any) -> None:
    for path, body in (("/reset", {}), ("/script", members)):
        with urllib.request.urlopen(urllib.request.Request(f"{PROVIDER}{path}", json.dumps(body).encode(), method="POST")):
            pass


def weather(city: str) -> str:
    """The weather of a city."""
    return f"Rain in {city}."


def main() -> None:
    results: dict[str, Any] = {}
    tokens = ["One ", "two ", "three."]
    chat = ChatOpenAI(model="scripted/writer", stream_usage=True, **COMMON)
    script(tokens=tokens)
    answer = chat.invoke([HumanMessage("count")])
    results["chat"] = {"text": answer.content, "usage": answer.usage_metadata}
    results["stream"] = {"text": "".join(str(chunk.content) for chunk in chat.stream("count"))}
    script(tool_calls=[CALL])
    called = chat.bind_tools([weather]).invoke("weather?")
    results["tools"] = [{"name": call["name"], "args": call["args"]} for call in called.tool_calls]
    script(tokens=tokens)
    told = chat.invoke(
        [HumanMessage("weather?"), AIMessage("", tool_calls=called.tool_calls), ToolMessage("Rain.", tool_call_id="call_1")]
    )
    results["tool_result"] = told.content
    script(tokens=['{"city"', ':"Tornby"}'])
    schema = {"title": "place", "description": "A place", "type": "object", "properties": {"city": {"type": "string"}}}
    results["structured"] = chat.with_structured_output(schema, method="json_schema").invoke("where?")
    script(tokens=tokens)
    responses = ChatOpenAI(model="scripted/writer", use_responses_api=True, use_previous_response_id=True, **COMMON)
    first = responses.invoke("count")
    second = responses.invoke([HumanMessage("count"), first, HumanMessage("on")])
    results["responses"] = [first.text, second.text]
    results["responses_stream"] = "".join(str(chunk.text) for chunk in responses.stream("count"))
    # Sends texts: the counting of tokens would need a vocabulary from the network.
    embeddings = OpenAIEmbeddings(model="scripted/embedder", check_embedding_ctx_length=False, **COMMON)
    script(dimensions=2)
    results["embeddings"] = embeddings.embed_documents(["ab", "abcd"])
    sys.stdout.write(json.dumps(results))


main()
