"""Tools that a plain answer recommends, as models without function calling write it. Suggestions only: nothing here runs anything."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

import orjson

MAX_SUGGESTIONS = 5
_MAX_TEXT = 200_000
_MAX_BLOCKS = 20
_MAX_BLOCK = 10_000
_BLOCK = re.compile(r"^```[ \t]*(?:tool|tool_call|json)[ \t]*\n(.*?)^```", re.DOTALL | re.MULTILINE)
_WORD = re.compile(r"[a-z][a-z0-9]*(?:_[a-z0-9]+)*")
_NAMES = ("tool", "name", "tool_name", "function")
_ARGUMENTS = ("arguments", "input", "parameters", "args")


@dataclass(frozen=True)
class ToolSuggestion:
    """A tool that was named, and the arguments that were written down for it, unchecked; None where there were none."""

    name: str
    arguments: Mapping[str, Any] | None


def suggested_tools(text: str, known: Collection[str]) -> list[ToolSuggestion]:
    """The known tools that `text` recommends, in order: fenced `tool` blocks of JSON first, then names in the prose."""
    text = text[:_MAX_TEXT]
    found: dict[str, ToolSuggestion] = {}
    for match in islice(_BLOCK.finditer(text), _MAX_BLOCKS):
        for name, arguments in _calls(match.group(1)):
            if name in known:
                found.setdefault(name, ToolSuggestion(name, arguments))
    prose = _BLOCK.sub(" ", text)
    for word in dict.fromkeys(_WORD.findall(prose)):
        # A tool whose name is a common word would be found in any text: only in back quotes, or with "tool" beside it.
        if word in known and word not in found and _is_named(word, prose):
            found[word] = ToolSuggestion(word, None)
    return list(found.values())[:MAX_SUGGESTIONS]


def _calls(block: str) -> list[tuple[str, Mapping[str, Any] | None]]:
    if len(block) > _MAX_BLOCK:
        return []
    try:
        value = orjson.loads(block)
    except orjson.JSONDecodeError:
        return []
    result: list[tuple[str, Mapping[str, Any] | None]] = []
    for entry in value if isinstance(value, list) else [value]:
        if not isinstance(entry, dict):
            continue
        name = next((entry[key] for key in _NAMES if isinstance(entry.get(key), str)), None)
        arguments = next((entry[key] for key in _ARGUMENTS if isinstance(entry.get(key), dict)), None)
        if name is not None:
            result.append((name, arguments))
    return result


def _is_named(word: str, prose: str) -> bool:
    return "_" in word or f"`{word}`" in prose or re.search(rf"\b(?:tool {word}|{word} tool)\b", prose, re.IGNORECASE) is not None
