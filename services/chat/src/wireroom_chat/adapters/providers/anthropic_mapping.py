"""OpenAI's chat completions said in the words of Anthropic's Messages API, and its answers said in OpenAI's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from wireroom_common.errors import ErrorKind, FieldProblem, WireroomError

_DEFAULT_MAX_TOKENS = 4096
_FINISH = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "pause_turn": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}
_IMAGE_TYPES = frozenset({"image/jpeg", "image/png", "image/gif", "image/webp"})
_PASSED = ("top_p",)
# Members that ask for an answer of another shape than this wire can give. What merely steers (seed, penalties) is left out silently.
_REFUSED = ("logprobs", "top_logprobs", "logit_bias", "audio", "functions", "function_call", "prediction", "web_search_options")


@dataclass(frozen=True)
class Mapped:
    """A request for the Messages API. `stripped`: white space at the end of the text that the answer is to go on with."""

    body: dict[str, Any]
    stripped: str = ""


def unsupported(name: str, member: str, why: str) -> WireroomError:
    """INVALID, with the member of the request that cannot be had from this provider."""
    detail = f"The provider '{name}' {why}."
    return WireroomError(ErrorKind.INVALID, "provider_unsupported", detail, fields=[FieldProblem(member, detail)])


def messages_request(name: str, body: Mapping[str, Any], max_output_tokens: int = 0) -> Mapped:
    """The request; INVALID `provider_unsupported` for what this wire has no words for."""
    _check(name, body)
    system, turns = _turns(name, body["messages"])
    stripped = _strip_last(turns)
    request: dict[str, Any] = {
        "model": body.get("model"),
        "max_tokens": body.get("max_completion_tokens") or body.get("max_tokens") or max_output_tokens or _DEFAULT_MAX_TOKENS,
        "messages": turns,
        **_steering(body),
    }
    if system:
        request["system"] = system
    if body.get("tools"):
        request["tools"] = [_tool(name, f"tools[{index}]", tool) for index, tool in enumerate(body["tools"])]
        choice = _tool_choice(name, body.get("tool_choice"), parallel=body.get("parallel_tool_calls") is not False)
        if choice is not None:
            request["tool_choice"] = choice
    if body.get("stream"):
        request["stream"] = True
    return Mapped(request, stripped)


def _turns(name: str, messages: Sequence[Mapping[str, Any]]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The system prompt's blocks, and the messages; neighbours of one role are one message there."""
    system: list[dict[str, Any]] = []
    turns: list[dict[str, Any]] = []
    for index, message in enumerate(messages):
        place = f"messages[{index}]"
        if message["role"] in ("system", "developer"):
            system.extend(_parts(name, place, message.get("content")))
            continue
        role = "assistant" if message["role"] == "assistant" else "user"
        blocks = _blocks(name, place, message)
        if turns and turns[-1]["role"] == role:
            turns[-1]["content"].extend(blocks)
        elif blocks:
            turns.append({"role": role, "content": blocks})
    return system, turns


def _steering(body: Mapping[str, Any]) -> dict[str, Any]:
    """Members that have the same meaning there."""
    found: dict[str, Any] = {member: body[member] for member in _PASSED if body.get(member) is not None}
    stop = body.get("stop")
    if stop:
        found["stop_sequences"] = [stop] if isinstance(stop, str) else list(stop)
    temperature = body.get("temperature")
    if isinstance(temperature, int | float):
        # Its scale ends at 1, OpenAI's at 2.
        found["temperature"] = min(temperature, 1)
    if isinstance(body.get("user"), str):
        found["metadata"] = {"user_id": body["user"]}
    return found


def completion(answer: Mapping[str, Any], created: int, stripped: str = "") -> dict[str, Any] | None:
    """The chat completion object of a message; None if it is none."""
    content = answer.get("content")
    if answer.get("type") != "message" or not isinstance(content, list):
        return None
    texts: list[str] = []
    calls: list[dict[str, Any]] = []
    for block in content:
        if not isinstance(block, dict):
            return None
        if block.get("type") == "text" and isinstance(block.get("text"), str):
            texts.append(block["text"])
        elif block.get("type") == "tool_use":
            arguments = orjson.dumps(block.get("input") or {}).decode()
            calls.append(
                {"id": block.get("id"), "type": "function", "function": {"name": block.get("name"), "arguments": arguments}}
            )
    text = without_repeated("".join(texts), stripped)
    message: dict[str, Any] = {"role": "assistant", "content": text if text or not calls else None, "refusal": None}
    if calls:
        message["tool_calls"] = calls
    return {
        "id": answer.get("id") or "",
        "object": "chat.completion",
        "created": created,
        "model": answer.get("model") or "",
        "choices": [
            {"index": 0, "message": message, "logprobs": None, "finish_reason": finish_reason(answer.get("stop_reason"))}
        ],
        "usage": usage(answer.get("usage")),
    }


def finish_reason(reason: Any) -> str:
    """OpenAI's word for a stop reason."""
    return _FINISH.get(reason, "stop") if isinstance(reason, str) else "stop"


def usage(figures: Any) -> dict[str, Any]:
    """OpenAI's usage object: there tokens of the prompt that came from the cache are part of the prompt's."""
    found = figures if isinstance(figures, dict) else {}
    cached = _count(found, "cache_read_input_tokens")
    prompt = _count(found, "input_tokens") + _count(found, "cache_creation_input_tokens") + cached
    output = _count(found, "output_tokens")
    result: dict[str, Any] = {"prompt_tokens": prompt, "completion_tokens": output, "total_tokens": prompt + output}
    if cached:
        result["prompt_tokens_details"] = {"cached_tokens": cached}
    return result


def without_repeated(text: str, stripped: str) -> str:
    """The text without the white space at its start that stood at the end of what it goes on with."""
    space = 0
    while space < min(len(text), len(stripped)) and text[space] == stripped[space]:
        space += 1
    return text[space:]


def _check(name: str, body: Mapping[str, Any]) -> None:
    if (body.get("n") or 1) != 1:
        raise unsupported(name, "n", "gives one choice only; leave out n")
    for member in _REFUSED:
        if body.get(member):
            raise unsupported(name, member, f"does not support '{member}'; leave it out or choose another model")
    wanted = body.get("response_format")
    if isinstance(wanted, dict) and wanted.get("type") not in (None, "text"):
        raise unsupported(
            name, "response_format", "has no JSON mode; describe the object as the parameters of a tool and set tool_choice to it"
        )
    stops = body.get("stop") or []
    if any(not isinstance(stop, str) or not stop.strip() for stop in ([stops] if isinstance(stops, str) else stops)):
        raise unsupported(name, "stop", "takes no stop sequences of white space only")


def _blocks(name: str, place: str, message: Mapping[str, Any]) -> list[dict[str, Any]]:
    role = message["role"]
    if role in ("tool", "function"):
        if not isinstance(message.get("tool_call_id"), str):
            raise unsupported(name, f"{place}.tool_call_id", "needs the tool_call_id of each result")
        result = _parts(name, place, message.get("content"))
        return [{"type": "tool_result", "tool_use_id": message["tool_call_id"], "content": result}]
    blocks = _parts(name, place, message.get("content"))
    for number, call in enumerate(message.get("tool_calls") or []):
        blocks.append(_tool_use(name, f"{place}.tool_calls[{number}]", call))
    return blocks


def _parts(name: str, place: str, content: Any) -> list[dict[str, Any]]:
    if isinstance(content, str):
        # It refuses empty texts.
        return [{"type": "text", "text": content}] if content else []
    parts: list[dict[str, Any]] = []
    for index, part in enumerate(content or []):
        kind = part.get("type")
        if kind in ("text", "refusal"):
            text = part.get(kind)
            if text:
                parts.append({"type": "text", "text": text})
        elif kind == "image_url":
            parts.append({"type": "image", "source": _image(name, f"{place}.content[{index}]", part.get("image_url"))})
        else:
            raise unsupported(name, f"{place}.content[{index}]", f"takes no parts of the type '{str(kind)[:40]}'")
    return parts


def _image(name: str, place: str, value: Any) -> dict[str, Any]:
    url = value.get("url") if isinstance(value, dict) else value
    if not isinstance(url, str):
        raise unsupported(name, place, "needs the url of the image")
    if url.startswith("https://"):
        return {"type": "url", "url": url}
    head, comma, data = url.partition(",")
    media_type, _, encoding = head.removeprefix("data:").partition(";")
    if not url.startswith("data:") or not comma or encoding != "base64" or media_type not in _IMAGE_TYPES:
        raise unsupported(name, place, "takes images as https URLs, or as data URLs in base64 of JPEG, PNG, GIF and WebP")
    return {"type": "base64", "media_type": media_type, "data": data}


def _tool_use(name: str, place: str, call: Any) -> dict[str, Any]:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(call.get("id"), str) or not isinstance(function.get("name"), str):
        raise unsupported(name, place, "needs the id and the function of each tool call")
    try:
        arguments = orjson.loads(function.get("arguments") or "{}")
    except orjson.JSONDecodeError:
        arguments = None
    if not isinstance(arguments, dict):
        raise unsupported(name, f"{place}.function.arguments", "needs arguments that are a JSON object")
    return {"type": "tool_use", "id": call["id"], "name": function["name"], "input": arguments}


def _tool(name: str, place: str, tool: Any) -> dict[str, Any]:
    function = tool.get("function") if isinstance(tool, dict) else None
    if not isinstance(function, dict) or tool.get("type") != "function" or not isinstance(function.get("name"), str):
        raise unsupported(name, place, "takes tools of the type 'function' only")
    mapped = {"name": function["name"], "input_schema": function.get("parameters") or {"type": "object", "properties": {}}}
    if isinstance(function.get("description"), str):
        mapped["description"] = function["description"]
    return mapped


def _tool_choice(name: str, choice: Any, *, parallel: bool) -> dict[str, Any] | None:
    if choice is None:
        return None if parallel else {"type": "auto", "disable_parallel_tool_use": True}
    if isinstance(choice, dict):
        function = choice.get("function")
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise unsupported(name, "tool_choice", "needs the name of the function")
        mapped: dict[str, Any] = {"type": "tool", "name": function["name"]}
    elif choice in ("auto", "none", "required"):
        mapped = {"type": "any" if choice == "required" else choice}
    else:
        raise unsupported(name, "tool_choice", "knows auto, none, required and a function")
    if not parallel and mapped["type"] != "none":
        mapped["disable_parallel_tool_use"] = True
    return mapped


def _strip_last(turns: Sequence[dict[str, Any]]) -> str:
    """It refuses a last message of the assistant's that ends with white space; what was taken away is returned."""
    if not turns or turns[-1]["role"] != "assistant" or turns[-1]["content"][-1]["type"] != "text":
        return ""
    block = turns[-1]["content"][-1]
    text: str = block["text"]
    block["text"] = text.rstrip()
    return text[len(block["text"]) :]


def _count(figures: Mapping[str, Any], member: str) -> int:
    value = figures.get(member)
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0


class ChunkMapper:
    """The events of one streamed message as chat completion chunks."""

    def __init__(self, created: int, stripped: str = "") -> None:
        self._head: dict[str, Any] = {"id": "", "object": "chat.completion.chunk", "created": created, "model": ""}
        self._stripped = stripped
        self._usage: dict[str, Any] = {}
        # Number of the tool call by number of its block, and whether its arguments have begun.
        self._calls: dict[int, int] = {}
        self._argued: set[int] = set()
        self.finished = False

    def chunks(self, event: Mapping[str, Any]) -> list[dict[str, Any]]:  # noqa: PLR0911 - a table: one return per kind of event
        """What an event says; nothing for those that carry nothing for the caller. ValueError for what is no event of this wire."""
        kind = event.get("type")
        if kind == "message_start":
            message = _member(event, "message")
            self._usage.update(message.get("usage") or {})
            self._head["id"], self._head["model"] = message.get("id") or "", message.get("model") or ""
            return [self._chunk({"role": "assistant", "content": ""})]
        if kind == "content_block_start":
            return self._block(_index(event), _member(event, "content_block"))
        if kind == "content_block_delta":
            return self._delta(_index(event), _member(event, "delta"))
        if kind == "content_block_stop":
            number = self._calls.get(_index(event))
            if number is not None and number not in self._argued:
                return [self._chunk({"tool_calls": [{"index": number, "function": {"arguments": "{}"}}]})]
            return []
        if kind == "message_delta":
            self._usage.update(event.get("usage") or {})
            reason = _member(event, "delta").get("stop_reason")
            if reason is None:
                return []
            self.finished = True
            return [self._chunk({}, finish_reason(reason))]
        return []

    def usage(self) -> dict[str, Any]:
        """The last chunk, with the figures of the whole answer."""
        return {**self._head, "choices": [], "usage": usage(self._usage)}

    def _block(self, index: int, block: Mapping[str, Any]) -> list[dict[str, Any]]:
        if block.get("type") == "tool_use":
            number = self._calls[index] = len(self._calls)
            function = {"name": block.get("name"), "arguments": ""}
            return [
                self._chunk({"tool_calls": [{"index": number, "id": block.get("id"), "type": "function", "function": function}]})
            ]
        text = block.get("text") if block.get("type") == "text" else None
        return self._text(text) if isinstance(text, str) else []

    def _delta(self, index: int, delta: Mapping[str, Any]) -> list[dict[str, Any]]:
        if delta.get("type") == "text_delta" and isinstance(delta.get("text"), str):
            return self._text(delta["text"])
        part = delta.get("partial_json")
        if delta.get("type") == "input_json_delta" and isinstance(part, str) and part:
            number = self._calls[index]
            self._argued.add(number)
            return [self._chunk({"tool_calls": [{"index": number, "function": {"arguments": part}}]})]
        return []

    def _text(self, text: str) -> list[dict[str, Any]]:
        if self._stripped:
            kept = without_repeated(text, self._stripped)
            # The white space may come in several pieces.
            self._stripped = "" if kept else self._stripped[len(text) :]
            text = kept
        return [self._chunk({"content": text})] if text else []

    def _chunk(self, delta: dict[str, Any], reason: str | None = None) -> dict[str, Any]:
        return {**self._head, "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}]}


def _member(event: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = event.get(name)
    if not isinstance(value, dict):
        raise ValueError(name)  # noqa: TRY004 - of somebody else's JSON
    return value


def _index(event: Mapping[str, Any]) -> int:
    value = event.get("index")
    if not isinstance(value, int):
        raise ValueError("index")  # noqa: TRY004 - of somebody else's JSON
    return value
