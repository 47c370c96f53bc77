"""Writes `docs/reference/openapi.json` and `docs/reference/permissions.md` from the code; `--check` says what is stale.

`docs/reference/released-openapi.json` is the document of the last release: `--release` replaces it. A change that breaks its clients
is a finding of `make lint`.
"""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from openapi_compatibility import breaking_changes
from prometheus_client import CollectorRegistry

from wireroom_auth.domain.permissions import ALL_PERMISSIONS, DESCRIPTIONS, GRANTS, Role
from wireroom_common.clock import Clock, SystemClock
from wireroom_common.rpc import grpc_channel
from wireroom_common.runtime.service import Infra
from wireroom_gateway.app import application
from wireroom_gateway.documentation import Documentation
from wireroom_gateway.identity.jwks import JwksCache
from wireroom_gateway.readiness import Readiness
from wireroom_gateway.routes.openai.routes import OPENAPI as OPENAI_PATHS
from wireroom_gateway.services import connect
from wireroom_gateway.settings import GatewaySettings

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "docs" / "reference"
OPENAPI, RELEASED, PERMISSIONS = FOLDER / "openapi.json", FOLDER / "released-openapi.json", FOLDER / "permissions.md"
_METHODS = ("get", "post", "put", "patch", "delete")


@dataclass(frozen=True)
class _Nothing:
    """What the routes are built with when none will be called."""

    clock: Clock = field(default_factory=SystemClock)
    registry: CollectorRegistry = field(default_factory=CollectorRegistry)

    def public_url(self) -> str:
        return "https://wireroom.example"


def document() -> dict[str, Any]:
    """The OpenAPI document of the gateway as it is now."""
    return asyncio.run(_document())


async def _document() -> dict[str, Any]:
    infra = _Nothing()
    channel = grpc_channel("127.0.0.1:9")
    services = connect(lambda _service: channel)
    readiness = Readiness({}, degraded=list, draining=lambda: False)
    api = application(GatewaySettings(), cast("Infra", infra), services, JwksCache(services, infra.clock), readiness)
    described = Documentation(api, OPENAI_PATHS).openapi()
    await channel.close()
    return described


def permissions_page(openapi: dict[str, Any]) -> str:
    """Who may do what: permissions by role, and the permission of every route."""
    roles = list(Role)
    lines = [
        "# Permissions",
        "",
        "Made from the code by `make reference`. Deny by default: a route without a declaration stops the start.",
        "",
        "● the role has it · ○ an API key of the role's user has it if the key names it",
        "",
        f"| permission | {' | '.join(role.value for role in roles)} | what for |",
        f"|---|{'---|' * len(roles)}---|",
    ]
    for permission in sorted(ALL_PERMISSIONS):
        marks = [
            "●" if permission in GRANTS[role].always else "○" if permission in GRANTS[role].by_key_scope else "" for role in roles
        ]
        lines.append(f"| `{permission}` | {' | '.join(marks)} | {DESCRIPTIONS[permission]} |")
    lines += ["", "## Routes", "", "| route | demands |", "|---|---|"]
    for path, operations in sorted(openapi["paths"].items()):
        lines += [
            f"| `{method.upper()} {path}` | `{operations[method]['x-permission']}` |"
            for method in _METHODS
            if method in operations
        ]
    return "\n".join(lines) + "\n"


def files() -> dict[Path, str]:
    """What the folder must hold."""
    openapi = document()
    return {
        OPENAPI: json.dumps(openapi, indent=1, sort_keys=True, ensure_ascii=False) + "\n",
        PERMISSIONS: permissions_page(openapi),
    }


def check() -> list[str]:
    """One line for each stale file, and for each change that breaks clients of the last release."""
    wanted = files()
    stale = [
        f"{path.relative_to(ROOT)} is stale: run `make reference`"
        for path, text in wanted.items()
        if not path.exists() or path.read_text() != text
    ]
    breaking = breaking_changes(json.loads(RELEASED.read_text()), json.loads(wanted[OPENAPI]))
    return [*stale, *(f"breaks clients of the last release: {line}" for line in breaking)]


def main() -> int:
    """Write, check, or release."""
    if "--check" in sys.argv:
        problems = check()
        print("\n".join(problems))
        return 1 if problems else 0
    FOLDER.mkdir(parents=True, exist_ok=True)
    for path, text in files().items():
        path.write_text(text)
    if "--release" in sys.argv:
        RELEASED.write_text(OPENAPI.read_text())
    return 0


if __name__ == "__main__":
    sys.exit(main())
