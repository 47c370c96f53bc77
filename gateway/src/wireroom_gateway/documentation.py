"""The OpenAPI document of all routes, and a page that shows it without a script, a font or an image from anywhere."""

from __future__ import annotations

import base64
import hashlib
import html
from typing import Any

from fastapi import FastAPI

from wireroom_gateway.access import Need, RouteTable

_STYLE = """
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1a1a1a;background:#fff}
h2{margin-top:2rem;border-bottom:1px solid #ccc}table{border-collapse:collapse;width:100%}
td{padding:.3rem .6rem;border-bottom:1px solid #eee;vertical-align:top}code{font-size:.95em}
@media(prefers-color-scheme:dark){body{color:#eee;background:#161616}td{border-color:#333}a{color:#8ab4f8}}
""".strip()


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
            document["paths"] = {**document["paths"], **self._extra}
            document.setdefault("components", {})["securitySchemes"] = {
                "bearer": {"type": "http", "scheme": "bearer", "description": "An access token or an API key"}
            }
            for match in RouteTable(self._api.router.routes).matches:
                for method, route in match.methods.items():
                    operation = document["paths"].get(match.template, {}).get(method.lower())
                    if operation is None:
                        continue
                    need = route.access.need
                    operation["x-permission"] = need if isinstance(need, str) else need.value
                    operation["security"] = [] if need is Need.NOTHING else [{"bearer": []}]
            self._document = document
        return self._document

    def page(self) -> tuple[str, str]:
        """The page, and the content security policy that lets its one style through."""
        document = self.openapi()
        groups: dict[str, list[str]] = {}
        for path, operations in document["paths"].items():
            for method, operation in operations.items():
                need = html.escape(operation["x-permission"])
                row = (
                    f"<tr><td><code>{method.upper()}</code></td><td><code>{html.escape(path)}</code></td>"
                    f"<td>{html.escape(operation.get('summary', ''))}</td><td><code>{need}</code></td></tr>"
                )
                groups.setdefault(operation.get("tags", ["other"])[0], []).append(row)
        sections = "".join(f"<h2>{html.escape(name)}</h2><table>{''.join(rows)}</table>" for name, rows in groups.items())
        title = f"{html.escape(document['info']['title'])} {html.escape(document['info']['version'])}"
        page = (
            f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style></head><body>'
            f'<h1>{title}</h1><p>Each route with the permission it demands. Schemas: <a href="/openapi.json">openapi.json</a>.</p>'
            f"{sections}</body></html>"
        )
        digest = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
        return (
            page,
            f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        )
