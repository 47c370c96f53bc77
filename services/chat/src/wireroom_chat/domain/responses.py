"""Requests of the Responses API as chat completion requests, and the response object."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from wireroom_chat.domain.members import Members, json_object
from wireroom_chat.domain.request import ChatRequest, parse_request
from wireroom_chat.domain.response_items import NewName, messages_of, read_items
from wireroom_common.errors import ErrorKind, FieldProblem, WireroomError

_MAX_INSTRUCTIONS = 1_000_000
_MAX_TOKENS = 2**31 - 1
_MAX_TOOLS = 128
_MAX_METADATA = 16
_LOGPROBS = "message.output_text.logprobs"
# Members that mean the same in a chat completion request.
_SAME = ("temperature", "top_p", "user", "metadata", "service_tier", "safety_identifier", "prompt_cache_key", "grounding")
# Members that are told again in the response, with the value they have when they are left out.
_ECHOED: Mapping[str, Any] = {
    "instructions": None,
    "max_output_tokens": None,
    "max_tool_calls": None,
    "parallel_tool_calls": True,
    "previous_response_id": None,
    "prompt_cache_key": None,
    "safety_identifier": None,
    "service_tier": "default",
    "temperature": 1.0,
    "tool_choice": "auto",
    "top_logprobs": 0,
    "top_p": 1.0,
    "truncation": "disabled",
    "user": None,
}


@dataclass(frozen=True)
class ResponseRequest:
    """A checked request. `echoed`: members of the response that repeat the request; `chat`: those of the chat request."""

    model: str
    items: tuple[Mapping[str, Any], ...]
    instructions: str
    previous_id: str
    store: bool
    logprobs: bool
    echoed: Mapping[str, Any]
    chat: Mapping[str, Any]

    def chat_request(self, history: Sequence[Mapping[str, Any]], *, stream: bool) -> ChatRequest:
        """The chat completion request; `history` are the items of the conversation before."""
        messages = messages_of([*history, *self.items])
        if self.instructions:
            messages = [{"role": "system", "content": self.instructions}, *messages]
        more = {"stream": True, "stream_options": {"include_usage": True}} if stream else {}
        return parse_request(orjson.dumps({"model": self.model, "messages": messages, **self.chat, **more}), stream=stream)


def parse_response_request(body: bytes, new_name: NewName) -> ResponseRequest:
    """Check the body; INVALID names every offending member. `new_name` makes ids with a prefix."""
    raw = json_object(body)
    members = Members(raw)
    model = members.required_text("model", "The name of a model is required; GET /v1/models lists them.")
    items = read_items(members, new_name)
    instructions = members.text("instructions", longest=_MAX_INSTRUCTIONS) or ""
    previous = members.text("previous_response_id", longest=100) or ""
    store = members.boolean("store", default=True)
    members.boolean("stream", default=False)
    members.choice("truncation", ("auto", "disabled"))
    _refuse_what_is_not_there(members)
    chat = {name: raw[name] for name in _SAME if raw.get(name) is not None}
    limit = members.integer("max_output_tokens", 1, _MAX_TOKENS)
    if limit is not None:
        chat["max_completion_tokens"] = limit
    tools = _tools(members, chat)
    logprobs = _logprobs(members, chat)
    text = _text_format(members, chat)
    reasoning = members.mapping("reasoning")
    if reasoning.get("effort") is not None:
        chat["reasoning_effort"] = reasoning["effort"]
    metadata = members.mapping("metadata")
    if len(metadata) > _MAX_METADATA or not all(isinstance(value, str) for value in metadata.values()):
        members.refuse("metadata", f"Must be an object of at most {_MAX_METADATA} texts.")
    members.check()
    echoed = {name: raw[name] if raw.get(name) is not None else default for name, default in _ECHOED.items()}
    return ResponseRequest(
        model=model,
        items=tuple(items),
        instructions=instructions,
        previous_id=previous,
        store=store,
        logprobs=logprobs,
        echoed={
            **echoed,
            "background": False,
            "metadata": metadata,
            "reasoning": {"effort": reasoning.get("effort"), "summary": None},
            "store": store,
            "text": text,
            "tools": tools,
        },
        chat=chat,
    )


def previous_not_found(response_id: str) -> WireroomError:
    """There is no such response before this one, or no more."""
    detail = (
        f"Previous response with id '{response_id[:100]}' not found: it, or one before it, was deleted, has expired"
        " or was not stored; or the conversation has grown too long."
    )
    return WireroomError(
        ErrorKind.INVALID, "previous_response_not_found", detail, fields=[FieldProblem("previous_response_id", detail)]
    )


def response_usage(usage: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """`usage` of a chat completion as a response has it."""
    if not isinstance(usage, Mapping):
        return None
    tokens_in, tokens_out = int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0)
    details_in = usage.get("prompt_tokens_details") or {}
    details_out = usage.get("completion_tokens_details") or {}
    return {
        "input_tokens": tokens_in,
        "input_tokens_details": {
            "cached_tokens": int(details_in.get("cached_tokens") or 0),
            "cache_write_tokens": int(details_in.get("cache_write_tokens") or 0),
        },
        "output_tokens": tokens_out,
        "output_tokens_details": {"reasoning_tokens": int(details_out.get("reasoning_tokens") or 0)},
        "total_tokens": tokens_in + tokens_out,
    }


def _refuse_what_is_not_there(members: Members) -> None:
    if members.boolean("background", default=False):
        members.refuse("background", "Responses are made while the caller waits; leave 'background' out and use 'stream'.")
    if members.get("conversation") is not None:
        members.refuse("conversation", "There are no conversation objects; use 'previous_response_id'.")
    if members.get("prompt") is not None:
        members.refuse("prompt", "There are no stored prompts; send 'instructions' and 'input'.")
    if members.get("previous_response_id") is not None and members.get("conversation") is not None:
        members.refuse("previous_response_id", "Cannot be combined with 'conversation'.")


def _tools(members: Members, chat: dict[str, Any]) -> list[dict[str, Any]]:
    """The tools as the response repeats them; those of the chat request go into `chat`."""
    tools = members.get("tools") or []
    if not isinstance(tools, list) or len(tools) > _MAX_TOOLS:
        members.refuse("tools", f"Must be a list of at most {_MAX_TOOLS} tools.")
        return []
    told = []
    for index, tool in enumerate(tools):
        if not isinstance(tool, dict) or tool.get("type") != "function":
            members.refuse(
                f"tools[{index}].type", "Only tools of the type 'function' are there; for documents and news send 'grounding'."
            )
        elif not isinstance(tool.get("name"), str) or not isinstance(tool.get("parameters") or {}, dict):
            members.refuse(f"tools[{index}]", "A function needs a 'name', and 'parameters' as a JSON schema.")
        else:
            told.append(
                {
                    "type": "function",
                    "name": tool["name"],
                    "description": tool.get("description"),
                    "parameters": tool.get("parameters"),
                    "strict": bool(tool.get("strict")),
                }
            )
    if told:
        chat["tools"] = [{"type": "function", "function": _function(tool, tools[index])} for index, tool in enumerate(told)]
    _choose_tools(members, chat)
    return told


def _choose_tools(members: Members, chat: dict[str, Any]) -> None:
    """What is said of tools that are not there means nothing."""
    there = "tools" in chat
    choice = members.get("tool_choice")
    if isinstance(choice, dict) and choice.get("type") == "function" and isinstance(choice.get("name"), str):
        chat["tool_choice"] = {"type": "function", "function": {"name": choice["name"]}}
    elif choice in ("none", "auto", "required"):
        if there:
            chat["tool_choice"] = choice
    elif choice is not None:
        members.refuse("tool_choice", "Must be none, auto, required or an object that names a function.")
    parallel = members.boolean("parallel_tool_calls", default=True)
    if there and members.get("parallel_tool_calls") is not None:
        chat["parallel_tool_calls"] = parallel


def _function(told: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    names = ("name", "description", "parameters")
    function = {name: told[name] for name in names if told[name] is not None}
    return {**function, "strict": given["strict"]} if isinstance(given.get("strict"), bool) else function


def _logprobs(members: Members, chat: dict[str, Any]) -> bool:
    include = members.get("include") or []
    if not isinstance(include, list) or not all(isinstance(item, str) for item in include):
        members.refuse("include", "Must be a list of texts.")
        return False
    top = members.integer("top_logprobs", 0, 20)
    wanted = _LOGPROBS in include or bool(top)
    if wanted:
        chat["logprobs"] = True
        if top:
            chat["top_logprobs"] = top
    return wanted


def _text_format(members: Members, chat: dict[str, Any]) -> dict[str, Any]:
    text = members.mapping("text")
    form = text.get("format") or {"type": "text"}
    kind = form.get("type") if isinstance(form, dict) else None
    if kind == "json_schema":
        if not isinstance(form.get("name"), str) or not isinstance(form.get("schema"), dict):
            members.refuse("text.format", "A JSON schema needs 'name' and 'schema'.")
        chat["response_format"] = {"type": kind, "json_schema": {name: value for name, value in form.items() if name != "type"}}
    elif kind == "json_object":
        chat["response_format"] = {"type": kind}
    elif kind != "text":
        members.refuse("text.format.type", "Must be text, json_object or json_schema.")
    told = {"format": form}
    if text.get("verbosity") is not None:
        told["verbosity"] = chat["verbosity"] = text["verbosity"]
    return told
