"""Renders what the listener refused, so that it looks, counts and is logged like any other answer."""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

from wireroom_common.runtime.http_limits import REFUSAL_KEY, Refusal
from wireroom_gateway.metrics import GatewayMetrics
from wireroom_gateway.problems import http_problem


class Refusals:
    """Nothing of a refused request gets past this stage."""

    def __init__(self, app: ASGIApp, *, metrics: GatewayMetrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal: Refusal | None = scope.get(REFUSAL_KEY)
        if refusal is not None:
            self._metrics.refused.labels(refusal.code).inc()
            headers = {**dict(refusal.headers), "connection": "close"}
            raise http_problem(refusal.status, refusal.detail, code=refusal.code, headers=headers)
        await self._app(scope, receive, send)
