"""JSON from outside: RFC 8259 and nothing beyond it, with a bounded depth.

NaN, Infinity, numbers beyond a double, lone surrogates, byte order marks and comments are refused. A repeated member is refused where this
application reads the members (`parse_members`); in bodies that are handed on, the last one counts, here and behind.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import orjson

from wireroom_gateway.problems import HttpProblemError, http_problem

MAX_DEPTH = 64
# Of all objects and arrays together; each would cost a sentence when it does not fit the schema.
MAX_VALUES = 10_000
_PARSE_INLINE_BYTES = 64 * 1024


def parse(body: bytes) -> Any:
    """The value written in `body`; a 400 problem otherwise."""
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise http_problem(400, f"The body is not valid JSON: {error.msg} at byte {error.pos}.", code="json_malformed") from None
    # The walk is only needed when there are enough brackets to get that deep.
    if body.count(b"[") + body.count(b"{") > MAX_DEPTH and _deeper_than(value, MAX_DEPTH):
        raise _too_deep()
    return value


def parse_members(body: bytes) -> Any:
    """As `parse`, for bodies whose members are read here: no member twice, at most `MAX_VALUES` members and elements."""
    value = parse(body)
    # Each further member or element needs a comma, each first one a bracket.
    if body.count(b",") + body.count(b"{") + body.count(b"[") > MAX_VALUES and _size(value) > MAX_VALUES:
        raise http_problem(400, f"The JSON has more than {MAX_VALUES} members and elements.", code="json_too_many_values")
    if isinstance(value, (dict, list)):
        json.loads(body, object_pairs_hook=_unique)
    return value


async def read(body: bytes) -> Any:
    """As `parse_members`; large bodies in a thread."""
    if len(body) > _PARSE_INLINE_BYTES:
        return await asyncio.to_thread(parse_members, body)
    return parse_members(body)


def require_content_type(value: str | None) -> None:
    """A 415 problem unless the content type is JSON in UTF-8."""
    media_type, *parameters = (value or "").lower().replace('"', "").split(";")
    charsets = [text.strip() for name, _, text in (entry.partition("=") for entry in parameters) if name.strip() == "charset"]
    if media_type.strip() != "application/json" or any(charset not in ("utf-8", "utf8") for charset in charsets):
        raise http_problem(
            415, "Send the body as 'Content-Type: application/json' (UTF-8).", headers={"accept": "application/json"}
        )


def _unique(pairs: list[tuple[str, Any]]) -> None:
    names: set[str] = set()
    for name, _ in pairs:
        if name in names:
            raise http_problem(400, "The JSON has an object with the same member twice.", code="json_duplicate_member")
        names.add(name)


def _size(value: Any) -> int:
    total = 0
    rest = [value]
    while rest and total <= MAX_VALUES:
        item = rest.pop()
        if isinstance(item, (dict, list)):
            total += len(item)
            rest.extend(item.values() if isinstance(item, dict) else item)
    return total


def _too_deep() -> HttpProblemError:
    return http_problem(400, f"The JSON is nested deeper than {MAX_DEPTH} levels.", code="json_too_deep")


def _deeper_than(value: Any, limit: int) -> bool:
    level = [value]
    for _ in range(limit):
        following: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                following.extend(child for child in item.values() if isinstance(child, (dict, list)))
            elif isinstance(item, list):
                following.extend(child for child in item if isinstance(child, (dict, list)))
        if not following:
            return False
        level = following
    return True
