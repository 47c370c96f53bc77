"""Filters over the attributes of members: comparisons, joined by `and` and `or`, as one SQL/JSON path predicate."""

from __future__ import annotations

import json
import math
from typing import Any

from wireroom_common.errors import WireroomError, invalid

MAX_COMPARISONS = 16
MAX_VALUES = 100
_MAX_BYTES = 65_536
_DEPTH = 4
_MAX_TEXT = 512
_OPERATORS = {"eq": "==", "ne": "==", "gt": ">", "gte": ">=", "lt": "<", "lte": "<=", "in": "==", "nin": "=="}
_NEGATED = frozenset({"ne", "nin"})


def member_filter(data: bytes) -> str:
    """The predicate for `jsonb @@ jsonpath` that a JSON filter means; empty for no bytes. INVALID for what is no filter.

    A comparison holds between values of one type; `ne` and `nin` hold for everything else, what is not there included.
    """
    if not data:
        return ""
    try:
        value = json.loads(data) if len(data) <= _MAX_BYTES else None
    except (ValueError, RecursionError):
        value = None
    counted = [0]
    return _predicate(value, counted, _DEPTH)


def _predicate(value: Any, counted: list[int], depth: int) -> str:
    match value:
        case {"type": "and" | "or" as joined, "filters": [_, *_] as parts, **rest} if not rest and depth:
            operator = " && " if joined == "and" else " || "
            return "(" + operator.join(_predicate(part, counted, depth - 1) for part in parts) + ")"
        case {"type": str(kind), "key": str(key), "value": given, **rest} if not rest and kind in _OPERATORS:
            counted[0] += 1
            if counted[0] <= MAX_COMPARISONS and 0 < len(key) <= _MAX_TEXT:
                return _comparison(kind, key, given)
    raise _unsupported()


def _comparison(kind: str, key: str, given: Any) -> str:
    many = kind in {"in", "nin"}
    if many is not isinstance(given, list) or (many and not 0 < len(given) <= MAX_VALUES):
        raise _unsupported()
    tests = " || ".join(f"@ {_OPERATORS[kind]} {_literal(item)}" for item in (given if many else [given]))
    # Through `exists`, as a comparison of different types is neither true nor false.
    found = f"exists($.{_literal(key)} ? ({tests}))"
    return f"!({found})" if kind in _NEGATED else f"({found})"


def _literal(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)) and math.isfinite(value) and abs(value) <= 2**53:
        # A negative number is an expression there.
        return f"({value!r})"
    if (
        isinstance(value, str)
        and len(value) <= _MAX_TEXT
        and "\x00" not in value
        and not any("\ud800" <= c <= "\udfff" for c in value)
    ):
        return json.dumps(value)
    raise _unsupported()


def _unsupported() -> WireroomError:
    return invalid(
        "filter_unsupported",
        "A filter is a comparison (eq, ne, gt, gte, lt, lte with a text, number or truth value; in, nin with up to"
        f" {MAX_VALUES} of them), or up to {MAX_COMPARISONS} of them joined by 'and' and 'or'.",
        field="filters",
    )
