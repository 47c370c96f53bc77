"""What the comparison of two OpenAPI documents takes for breaking."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from openapi_compatibility import breaking_changes

ROOT = Path(__file__).resolve().parents[2]
OPERATION = ("paths", "/things/{id}", "post")
BODY = ("components", "schemas", "Input")
ANSWER = (*OPERATION, "responses", "200", "content", "application/json", "schema")


def document() -> dict[str, Any]:
    return {
        "paths": {
            "/things/{id}": {
                "post": {
                    "parameters": [
                        {"in": "path", "name": "id", "required": True, "schema": {"type": "string"}},
                        {"in": "query", "name": "size", "required": False, "schema": {"type": "integer", "maximum": 100}},
                    ],
                    "requestBody": {
                        "required": True,
                        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Input"}}},
                    },
                    "responses": {
                        "200": {
                            "content": {
                                "application/json": {
                                    "schema": {
                                        "type": "object",
                                        "required": ["state", "tags"],
                                        "properties": {
                                            "state": {"type": "string", "enum": ["on", "off"]},
                                            "tags": {"type": "array", "items": {"type": "string"}},
                                        },
                                    }
                                }
                            }
                        }
                    },
                }
            }
        },
        "components": {
            "schemas": {
                "Input": {
                    "type": "object",
                    "required": ["name"],
                    "additionalProperties": False,
                    "properties": {
                        "name": {"type": "string", "maxLength": 50},
                        "kind": {"type": "string", "enum": ["a", "b"]},
                        "amount": {"type": "integer"},
                    },
                }
            }
        },
    }


def changed(*path: str | int, value: Any = None) -> dict[str, Any]:
    """The document with the value at `path` replaced, or removed for None."""
    result = document()
    place: Any = result
    for part in path[:-1]:
        place = place[part]
    if value is None:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return result


@pytest.mark.parametrize(
    ("after", "told"),
    [
        (changed("paths", "/things/{id}"), "gone"),
        (changed(*OPERATION), "gone"),
        (changed(*OPERATION, "parameters", 1), "query parameter 'size' is gone"),
        (changed(*OPERATION, "parameters", 1, "required", value=True), "became required"),
        (changed(*OPERATION, "parameters", 1, "schema", "maximum", value=10), "maximum became 10"),
        (changed(*OPERATION, "parameters", 1, "schema", "type", value="boolean"), "type changed"),
        (changed(*BODY, "required", value=["name", "kind"]), "kind: became required"),
        (changed(*BODY, "properties", "kind"), "kind: gone"),
        (changed(*BODY, "properties", "kind", "enum", value=["a"]), "takes fewer values"),
        (changed(*BODY, "properties", "name", "maxLength", value=20), "maxLength became 20"),
        (changed(*BODY, "properties", "name", "minLength", value=1), "minLength became 1"),
        (changed(*OPERATION, "requestBody", "content", value={"text/plain": {}}), "no longer takes application/json"),
        (changed(*OPERATION, "responses", "200"), "no longer answers 200"),
        (changed(*ANSWER, "properties", "tags"), "tags: gone"),
        (changed(*ANSWER, "required", value=["state"]), "tags: is no longer always there"),
        (changed(*ANSWER, "properties", "state", "enum", value=["on", "off", "?"]), "not announced"),
        (changed(*ANSWER, "properties", "tags", "items", "type", value="integer"), "tags[]: type changed"),
    ],
)
def test_breaking_change_is_told(after: dict[str, Any], told: str) -> None:
    assert any(told in line for line in breaking_changes(document(), after))


@pytest.mark.parametrize(
    "after",
    [
        document(),
        changed("paths", "/more", value={"get": {"responses": {"200": {}}}}),
        changed(*BODY, "properties", "extra", value={"type": "string"}),
        changed(*BODY, "properties", "kind", "enum", value=["a", "b", "c"]),
        changed(*BODY, "properties", "name", "maxLength", value=80),
        changed(*BODY, "properties", "amount", "type", value="number"),
        changed(*BODY, "required", value=[]),
        changed(*ANSWER, "properties", "extra", value={"type": "string"}),
        changed(*ANSWER, "properties", "state", "enum", value=["on"]),
        changed(*OPERATION, "responses", "409", value={"description": "Conflict"}),
    ],
)
def test_addition_is_not_told(after: dict[str, Any]) -> None:
    assert breaking_changes(document(), after) == []


def test_last_release_is_still_served() -> None:
    folder = ROOT / "docs" / "reference"
    before = json.loads((folder / "released-openapi.json").read_text())
    after = json.loads((folder / "openapi.json").read_text())
    assert breaking_changes(before, after) == []
    without = copy.deepcopy(after)
    del without["paths"]["/auth/login"]
    assert breaking_changes(before, without) == ["POST /auth/login: gone"]
