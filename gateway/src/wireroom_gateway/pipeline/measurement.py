"""Counts and times requests, by route template."""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

from wireroom_common.clock import Clock
from wireroom_gateway.metrics import GatewayMetrics
from wireroom_gateway.reports import Reporter
from wireroom_gateway.request_state import method_label, request_state


class Measurement:
    """Metrics for every request, and what monitoring is told of it."""

    def __init__(self, app: ASGIApp, *, metrics: GatewayMetrics, clock: Clock, reports: Reporter) -> None:
        self._app = app
        self._metrics = metrics
        self._clock = clock
        self._reports = reports

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        state = request_state(scope)
        method = method_label(scope)
        start = self._clock.monotonic()
        self._metrics.in_progress.inc()
        try:
            await self._app(scope, receive, send)
        finally:
            seconds = self._clock.monotonic() - start
            self._metrics.in_progress.dec()
            requests, durations = self._metrics.of_route(state.template, method, state.status // 100)
            requests.inc()
            durations.observe(seconds)
            self._reports.request(state, method, milliseconds=seconds * 1000)
