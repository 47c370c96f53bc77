"""JSON from outside: RFC 8259 and nothing beyond it, with a bounded depth.

NaN, Infinity, numbers beyond a double, lone surrogates, byte order marks and comments are refused. Of a repeated member the last counts.
"""

from __future__ import annotations

from typing import Any

import orjson

from wireroom_gateway.problems import HttpProblemError, http_problem

MAX_DEPTH = 64


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


def require_content_type(value: str | None) -> None:
    """A 415 problem unless the content type is JSON in UTF-8."""
    media_type, *parameters = (value or "").lower().replace('"', "").split(";")
    charsets = [text.strip() for name, _, text in (entry.partition("=") for entry in parameters) if name.strip() == "charset"]
    if media_type.strip() != "application/json" or any(charset not in ("utf-8", "utf8") for charset in charsets):
        raise http_problem(
            415, "Send the body as 'Content-Type: application/json' (UTF-8).", headers={"accept": "application/json"}
        )


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
