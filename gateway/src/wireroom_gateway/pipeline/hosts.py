"""The host allow list: a page of someone else's that resolves its name to this address gets nothing (DNS rebinding)."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.types import ASGIApp, Receive, Scope, Send

from wireroom_gateway.problems import http_problem
from wireroom_gateway.request_state import request_state


class Hosts:
    """`*.example.com` stands for every name below, `*` for any. Probes are exempt: they address machines by number."""

    def __init__(self, app: ASGIApp, *, allowed: Sequence[str]) -> None:
        self._app = app
        self._any = "*" in allowed
        self._exact = frozenset(host.lower() for host in allowed if not host.startswith("*"))
        self._suffixes = tuple(host[1:].lower() for host in allowed if host.startswith("*."))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        route = request_state(scope).route
        if not self._any and not (route and route.access.any_host):
            values = [value for name, value in scope["headers"] if name == b"host"]
            if len(values) != 1 or not self._allows(_without_port(values[0].decode("latin-1").lower())):
                raise http_problem(
                    400,
                    "This host name is not served here. The setting allowed_hosts lists those that are.",
                    code="host_not_allowed",
                )
        await self._app(scope, receive, send)

    def _allows(self, host: str) -> bool:
        return host in self._exact or host.endswith(self._suffixes)


def _without_port(host: str) -> str:
    name, _, port = host.rpartition(":")
    return name if name and port.isdigit() and not host.endswith("]") else host
