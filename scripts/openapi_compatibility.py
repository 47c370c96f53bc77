"""Whether an OpenAPI document still serves every client of an earlier one.

Breaking: a path, method, parameter or property that is gone; a type or format that changed; a value that an enumeration no longer takes
(input) or newly gives (output); a parameter, body or property that became required (input) or optional (output); a limit that
became narrower (input); a success status that is gone. Additions are not.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

Document = dict[str, Any]
METHODS = ("get", "put", "post", "delete", "patch")
# Each with whether a greater number is narrower.
_LIMITS = {"minLength": True, "minimum": True, "minItems": True, "maxLength": False, "maximum": False, "maxItems": False}
_DEPTH = 12


def breaking_changes(before: Document, after: Document) -> list[str]:
    """One line for each difference that breaks a client of `before`."""
    return list(_paths(before, after))


def _paths(before: Document, after: Document) -> Iterator[str]:
    for path, operations in before.get("paths", {}).items():
        for method in METHODS:
            if method not in operations:
                continue
            place = f"{method.upper()} {path}"
            now = after.get("paths", {}).get(path, {}).get(method)
            if now is None:
                yield f"{place}: gone"
                continue
            yield from _parameters(place, operations[method], now, before, after)
            yield from _body(place, operations[method], now, before, after)
            yield from _answers(place, operations[method], now, before, after)


def _parameters(place: str, old: Document, new: Document, before: Document, after: Document) -> Iterator[str]:
    earlier = {(entry["in"], entry["name"]): entry for entry in old.get("parameters", [])}
    later = {(entry["in"], entry["name"]): entry for entry in new.get("parameters", [])}
    for key, entry in earlier.items():
        name = f"{place}: {key[0]} parameter '{key[1]}'"
        if key not in later:
            yield f"{name} is gone"
            continue
        yield from _schemas(name, entry.get("schema", {}), later[key].get("schema", {}), before, after, is_input=True)
    for key, entry in later.items():
        if entry.get("required") and not earlier.get(key, {}).get("required"):
            yield f"{place}: {key[0]} parameter '{key[1]}' became required"


def _body(place: str, old: Document, new: Document, before: Document, after: Document) -> Iterator[str]:
    earlier, later = old.get("requestBody"), new.get("requestBody")
    if later and later.get("required") and not (earlier and earlier.get("required")):
        yield f"{place}: a body became required"
    if earlier is None:
        return
    for kind, content in earlier.get("content", {}).items():
        now = (later or {}).get("content", {}).get(kind)
        if now is None:
            yield f"{place}: no longer takes {kind}"
            continue
        yield from _schemas(f"{place}: body", content.get("schema", {}), now.get("schema", {}), before, after, is_input=True)


def _answers(place: str, old: Document, new: Document, before: Document, after: Document) -> Iterator[str]:
    for status, answer in old.get("responses", {}).items():
        if not status.startswith("2"):
            continue
        now = new.get("responses", {}).get(status)
        if now is None:
            yield f"{place}: no longer answers {status}"
            continue
        for kind, content in answer.get("content", {}).items():
            later = now.get("content", {}).get(kind)
            if later is None:
                yield f"{place}: {status} is no longer {kind}"
                continue
            name = f"{place}: answer {status}"
            yield from _schemas(name, content.get("schema", {}), later.get("schema", {}), before, after, is_input=False)


def _schemas(
    place: str, old: Any, new: Any, before: Document, after: Document, *, is_input: bool, depth: int = 0
) -> Iterator[str]:
    old, new = _resolved(old, before), _resolved(new, after)
    if depth > _DEPTH or old == new:
        return
    old_types, new_types = _types(old, before), _types(new, after)
    lost = old_types - new_types if is_input else new_types - old_types
    if old_types and lost and not (is_input and not new_types) and not (lost == {"integer"} and "number" in new_types):
        yield f"{place}: type changed from {sorted(old_types)} to {sorted(new_types) or 'any'}"
        return
    old_values, new_values = old.get("enum"), new.get("enum")
    if is_input and new_values is not None and (old_values is None or set(old_values) - set(new_values)):
        yield f"{place}: takes fewer values"
    if not is_input and old_values is not None and (new_values is None or set(new_values) - set(old_values)):
        yield f"{place}: gives values that were not announced"
    if is_input:
        yield from _narrower(place, old, new)
    yield from _members(place, old, new, before, after, is_input=is_input, depth=depth)
    if "items" in old and "items" in new:
        yield from _schemas(f"{place}[]", old["items"], new["items"], before, after, is_input=is_input, depth=depth + 1)


def _members(
    place: str, old: Document, new: Document, before: Document, after: Document, *, is_input: bool, depth: int
) -> Iterator[str]:
    earlier, later = old.get("properties", {}), new.get("properties", {})
    old_required, new_required = set(old.get("required", ())), set(new.get("required", ()))
    for name, schema in earlier.items():
        if name in later:
            yield from _schemas(f"{place}.{name}", schema, later[name], before, after, is_input=is_input, depth=depth + 1)
        elif not is_input or new.get("additionalProperties") is False:
            yield f"{place}.{name}: gone"
    if is_input:
        yield from (f"{place}.{name}: became required" for name in sorted(new_required - old_required))
    else:
        yield from (f"{place}.{name}: is no longer always there" for name in sorted((old_required - new_required) & set(later)))


def _narrower(place: str, old: Document, new: Document) -> Iterator[str]:
    for limit, greater_is_narrower in _LIMITS.items():
        earlier, later = old.get(limit), new.get(limit)
        if later is None or earlier == later:
            continue
        if earlier is None or (later > earlier) is greater_is_narrower:
            yield f"{place}: {limit} became {later}"


def _resolved(schema: Any, document: Document) -> Document:
    for _ in range(_DEPTH):
        if not isinstance(schema, dict) or "$ref" not in schema:
            break
        found: Any = document
        for part in schema["$ref"].removeprefix("#/").split("/"):
            found = found[part]
        schema = found
    return schema if isinstance(schema, dict) else {}


def _types(schema: Document, document: Document) -> set[str]:
    choices = [*schema.get("anyOf", ()), *schema.get("oneOf", ())]
    if choices:
        return set().union(*(_types(_resolved(choice, document), document) for choice in choices))
    given = schema.get("type", ())
    return {given} if isinstance(given, str) else set(given)
