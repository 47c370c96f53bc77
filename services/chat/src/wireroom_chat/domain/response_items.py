"""The items of the Responses API: checked, given ids, and turned into chat messages."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from wireroom_chat.domain.members import Members

MAX_ITEMS = 2000
_ROLES = ("user", "assistant", "system", "developer")
NewName = Callable[[str], str]


def read_items(members: Members, new_name: NewName) -> list[dict[str, Any]]:
    """The `input` of a request as items with ids; what does not fit is noted in `members`."""
    value = members.get("input")
    if isinstance(value, str) and value:
        value = [{"role": "user", "content": value}]
    if not isinstance(value, list) or not value:
        members.refuse("input", "A text or a list of items is required.")
        return []
    if len(value) > MAX_ITEMS:
        members.refuse("input", f"At most {MAX_ITEMS} items are taken.")
        return []
    items = []
    for index, item in enumerate(value):
        read = _read_item(item, f"input[{index}]", members, new_name)
        if read is not None:
            items.append(read)
    return items


def messages_of(items: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Chat messages that say the same. A call of a function belongs to the message of the assistant before it."""
    messages: list[dict[str, Any]] = []
    for item in items:
        kind = item["type"]
        if kind == "message":
            messages.append(_message(item))
        elif kind == "function_call":
            call = {"id": item["call_id"], "type": "function", "function": {"name": item["name"], "arguments": item["arguments"]}}
            if not messages or messages[-1]["role"] != "assistant":
                messages.append({"role": "assistant", "content": None})
            messages[-1].setdefault("tool_calls", []).append(call)
        elif kind == "function_call_output":
            output = item["output"]
            content = output if isinstance(output, str) else "\n".join(part["text"] for part in output)
            messages.append({"role": "tool", "tool_call_id": item["call_id"], "content": content})
    return messages


def _read_item(  # noqa: PLR0911 - a return for each kind of item
    item: Any, name: str, members: Members, new_name: NewName
) -> dict[str, Any] | None:
    if not isinstance(item, dict):
        members.refuse(name, "Must be an object.")
        return None
    kind = item.get("type") or "message"
    if kind == "message":
        return _read_message(item, name, members, new_name)
    if kind == "function_call":
        if not all(isinstance(item.get(member), str) for member in ("call_id", "name", "arguments")):
            members.refuse(name, "A function call needs 'call_id', 'name' and 'arguments' as texts.")
            return None
        return {**item, "id": item.get("id") or new_name("fc"), "status": item.get("status") or "completed"}
    if kind == "function_call_output":
        output = item.get("output")
        texts = isinstance(output, list) and all(_is_text(part, "input_text") for part in output)
        if not isinstance(item.get("call_id"), str) or not (isinstance(output, str) or texts):
            members.refuse(
                name, "An output of a function needs 'call_id' and 'output', as a text or a list of parts 'input_text'."
            )
            return None
        return {**item, "id": item.get("id") or new_name("fco"), "status": item.get("status") or "completed"}
    if kind == "reasoning":
        # Of another model's thoughts nothing can be made; the conversation is whole without them.
        return None
    members.refuse(f"{name}.type", "Must be message, function_call, function_call_output or reasoning.")
    return None


def _read_message(item: Mapping[str, Any], name: str, members: Members, new_name: NewName) -> dict[str, Any] | None:
    role = item.get("role")
    if role not in _ROLES:
        members.refuse(f"{name}.role", f"Must be one of {', '.join(_ROLES)}.")
        return None
    content = item.get("content")
    if isinstance(content, str):
        content = [_text_part(role, content)]
    if not isinstance(content, list) or not content:
        members.refuse(f"{name}.content", "Must be a text or a list of at least one part.")
        return None
    for index, part in enumerate(content):
        problem = _problem_of(part, role)
        if problem:
            members.refuse(f"{name}.content[{index}]", problem)
            return None
    return {
        "id": item.get("id") or new_name("msg"),
        "type": "message",
        "role": role,
        "status": item.get("status") or "completed",
        "content": content,
    }


def _text_part(role: str, text: str) -> dict[str, Any]:
    if role == "assistant":
        return {"type": "output_text", "text": text, "annotations": []}
    return {"type": "input_text", "text": text}


def _problem_of(part: Any, role: str) -> str:
    """What is wrong with a part of a message; empty when nothing is."""
    if any(_is_text(part, kind) for kind in ("input_text", "output_text")):
        return ""
    if not isinstance(part, dict):
        return "Must be an object with a 'type'."
    kind = part.get("type")
    if kind == "refusal" and role == "assistant" and isinstance(part.get("refusal"), str):
        return ""
    if kind == "input_image" and role == "user":
        return "" if isinstance(part.get("image_url"), str) else "An image is given by 'image_url' (an address or a data URL)."
    if kind == "input_file" and role == "user":
        whole = isinstance(part.get("file_data"), str) and isinstance(part.get("filename"), str)
        return "" if whole else "A file is given by 'filename' and 'file_data'."
    return "Must be a part of the type input_text, input_image or input_file (of an assistant: output_text or refusal)."


def _is_text(part: Any, kind: str) -> bool:
    return isinstance(part, dict) and part.get("type") == kind and isinstance(part.get("text"), str)


def _message(item: Mapping[str, Any]) -> dict[str, Any]:
    parts = [_part(part) for part in item["content"]]
    if all(part["type"] == "text" for part in parts):
        return {"role": item["role"], "content": "\n".join(part["text"] for part in parts)}
    return {"role": item["role"], "content": parts}


def _part(part: Mapping[str, Any]) -> dict[str, Any]:
    kind = part["type"]
    if kind == "input_image":
        detail = {"detail": part["detail"]} if isinstance(part.get("detail"), str) else {}
        return {"type": "image_url", "image_url": {"url": part["image_url"], **detail}}
    if kind == "input_file":
        return {"type": "file", "file": {"filename": part["filename"], "file_data": part["file_data"]}}
    return {"type": "text", "text": part["refusal"] if kind == "refusal" else part["text"]}
