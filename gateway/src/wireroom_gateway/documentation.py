"""The OpenAPI document of all routes, and a page that shows it without a script, a font or an image from anywhere."""

from __future__ import annotations

import base64
import copy
import hashlib
import html
from typing import Any

from fastapi import FastAPI

from wireroom_gateway.access import Need, RouteTable
from wireroom_gateway.routes.application import OPENAI_ERROR_SCHEMA, PROBLEM_SCHEMA

_STYLE = """
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1a1a1a;background:#fff}
h2{margin-top:2rem;border-bottom:1px solid #ccc}
details{margin:.3rem 0}summary{cursor:pointer}details[open]{margin-bottom:1.5rem}
table{border-collapse:collapse;width:100%}
td{padding:.3rem .6rem;border-bottom:1px solid #eee;vertical-align:top}code{font-size:.95em}
@media(prefers-color-scheme:dark){body{color:#eee;background:#161616}td{border-color:#333}a{color:#8ab4f8}}
""".strip()

_KEPT = "The answer is kept for a day and given again to the same request with the same key, with `idempotency-replayed: true`."
_OPENAI_ERROR = {"application/json": {"schema": {"$ref": "#/components/schemas/OpenAIError"}}}
_NOT_KEPT = "The answer holds a credential and is not kept: the same request with the same key gets a 409."


def _add_pipeline(operation: dict[str, Any], method: str, *, secret_answer: bool) -> None:
    """What the stages before a route accept and answer."""
    responses = operation["responses"]
    added: dict[str, str] = {}
    if method in {"POST", "PUT", "PATCH", "DELETE"}:
        added["415"] = "The body is not of the type that is taken here, or is compressed"
    if method == "POST":
        added["409"] = "Conflict, or a request with this Idempotency-Key is in progress or has an answer that was not kept"
        added["422"] = "The request does not fit the schema, or the Idempotency-Key was used for another request"
        operation.setdefault("parameters", []).append(
            {
                "name": "Idempotency-Key",
                "in": "header",
                "required": False,
                "description": f"Makes a repeated request safe. {_NOT_KEPT if secret_answer else _KEPT}",
                "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]([ -~]*[!-~])?$"},
            }
        )
    for status, description in added.items():
        responses.setdefault(status, {"description": description, "content": responses.get("400", {}).get("content", {})})
    operation["responses"] = dict(sorted(responses.items()))


def _speak_openai(operation: dict[str, Any]) -> None:
    """Below /v1 the errors of every stage are OpenAI's."""
    for status, response in operation["responses"].items():
        if status >= "400":
            response["content"] = _OPENAI_ERROR


class Documentation:
    """Made at first use from the application's routes; `extra` are OpenAPI paths of routes that the framework does not describe."""

    def __init__(self, api: FastAPI, extra: dict[str, Any]) -> None:
        self._api = api
        self._extra = extra
        self._document: dict[str, Any] | None = None

    def openapi(self) -> dict[str, Any]:
        """The OpenAPI 3.1 document; each operation names what it demands."""
        if self._document is None:
            document = self._api.openapi()
            document["paths"] = {**document["paths"], **copy.deepcopy(self._extra)}
            components = document.setdefault("components", {})
            components.setdefault("schemas", {}).update({"Problem": PROBLEM_SCHEMA, "OpenAIError": OPENAI_ERROR_SCHEMA})
            components["securitySchemes"] = {
                "bearer": {"type": "http", "scheme": "bearer", "description": "An access token or an API key"}
            }
            for match in RouteTable(self._api.router.routes).matches:
                for method, route in match.methods.items():
                    operation = document["paths"].get(match.template, {}).get(method.lower())
                    if operation is None:
                        continue
                    need = route.access.need
                    operation["x-permission"] = need if isinstance(need, str) else need.value
                    if route.access.deprecated is not None:
                        operation["deprecated"] = True
                    operation["security"] = [] if need is Need.NOTHING else [{"bearer": []}]
                    _add_pipeline(operation, method, secret_answer=route.access.secret_answer)
                    if match.template.startswith("/v1/"):
                        _speak_openai(operation)
            self._document = document
        return self._document

    def page(self) -> tuple[str, str]:
        """The page, and the content security policy that lets its one style through."""
        document = self.openapi()
        schemas = document["components"]["schemas"]
        groups: dict[str, list[str]] = {}
        for path, operations in document["paths"].items():
            for method, operation in operations.items():
                entry = _operation(method, path, operation, schemas)
                groups.setdefault(operation.get("tags", ["other"])[0], []).append(entry)
        sections = "".join(f"<h2>{html.escape(name)}</h2>{''.join(entries)}" for name, entries in groups.items())
        title = f"{html.escape(document['info']['title'])} {html.escape(document['info']['version'])}"
        page = (
            f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style></head><body>'
            f"<h1>{title}</h1><p>Each route with the permission it demands. Errors are problem documents (RFC 9457); below"
            f' <code>/v1</code> they are OpenAI error objects. Machine-readable: <a href="/openapi.json">openapi.json</a>.</p>'
            f"{sections}</body></html>"
        )
        digest = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
        return (
            page,
            f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        )


def _operation(method: str, path: str, operation: dict[str, Any], schemas: dict[str, Any]) -> str:
    need = html.escape(operation["x-permission"])
    gone = " (deprecated)" if operation.get("deprecated") else ""
    parts = [
        (
            f"<details><summary><code><b>{method.upper()}</b> {html.escape(path)}</code> {html.escape(operation.get('summary', ''))}"
            f"{gone} <small>demands <code>{need}</code></small></summary>"
        )
    ]
    if text := operation.get("description"):
        parts.append(f"<p>{html.escape(text)}</p>")
    if parameters := operation.get("parameters"):
        rows = "".join(
            f"<tr><td><code>{html.escape(entry['name'])}</code></td><td>{html.escape(entry['in'])}"
            f"{', required' if entry.get('required') else ''}</td><td>{html.escape(_type(entry.get('schema', {})))}</td>"
            f"<td>{html.escape(entry.get('description', ''))}</td></tr>"
            for entry in parameters
        )
        parts.append(f"<table>{rows}</table>")
    for kind, content in operation.get("requestBody", {}).get("content", {}).items():
        parts.append(f"<p>Body, <code>{html.escape(kind)}</code>:</p>{_members(content.get('schema', {}), schemas)}")
    for status, answer in operation.get("responses", {}).items():
        parts.append(f"<p><b>{html.escape(status)}</b> {html.escape(answer.get('description', ''))}</p>")
        if status.startswith("2"):
            parts += [_members(content.get("schema", {}), schemas) for content in answer.get("content", {}).values()]
    return f"{''.join(parts)}</details>"


def _members(schema: dict[str, Any], schemas: dict[str, Any]) -> str:
    schema = schemas.get(schema.get("$ref", "").rpartition("/")[2], schema)
    required = schema.get("required", ())
    rows = "".join(
        f"<tr><td><code>{html.escape(name)}</code></td><td>{html.escape(_type(member))}{', required' if name in required else ''}</td>"
        f"<td>{html.escape(member.get('description', ''))}</td></tr>"
        for name, member in schema.get("properties", {}).items()
    )
    return f"<table>{rows}</table>" if rows else ""


def _type(schema: dict[str, Any]) -> str:
    if "$ref" in schema:
        return str(schema["$ref"].rpartition("/")[2])
    if choices := schema.get("anyOf") or schema.get("oneOf"):
        return " or ".join(_type(choice) for choice in choices)
    if "enum" in schema:
        return " | ".join(str(value) for value in schema["enum"])
    kind = str(schema.get("type", "any"))
    if kind == "array":
        return f"list of {_type(schema.get('items', {}))}"
    limits = [f"{name} {schema[name]}" for name in ("minimum", "maximum", "minLength", "maxLength", "format") if name in schema]
    return f"{kind} ({', '.join(limits)})" if limits else kind
