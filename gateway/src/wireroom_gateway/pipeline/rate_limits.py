"""Charges the limits of the route's bucket, and tells the caller how they stand."""

from __future__ import annotations

import hashlib
import math

from starlette.types import ASGIApp, Receive, Scope, Send

from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_gateway.access import Bucket
from wireroom_gateway.limits.limiter import Decision, Limiter
from wireroom_gateway.limits.store import CounterState
from wireroom_gateway.metrics import GatewayMetrics
from wireroom_gateway.pipeline.blocked_addresses import BlockGate
from wireroom_gateway.reports import Reporter
from wireroom_gateway.request_state import RequestState, request_state


class Toll:
    """What a request, or a message of a WebSocket, costs its sender."""

    def __init__(self, limiter: Limiter | None, gate: BlockGate, metrics: GatewayMetrics, reports: Reporter) -> None:
        self._limiter = limiter
        self._gate = gate
        self._metrics = metrics
        self._reports = reports

    async def charge(self, bucket: Bucket | None, state: RequestState, *, tell: bool = True) -> None:
        """RATE_LIMITED if the caller is blocked, or a row used up. `tell`: note for the answer's head how the rows stand."""
        self._gate.refuse_blocked(state)
        if self._limiter is None or bucket is None:
            return
        decision = await self._limiter.charge(bucket, state.principal, state.client_ip, state.limits)
        if decision is None:
            return
        if tell:
            _tell(decision, state)
        if not all(counter.passed for counter in decision.verdict.states):
            self._measure(decision, state)
        if not decision.verdict.allowed:
            if decision.blocked:
                self._gate.violated(state, decision.verdict.violations)
            raise _refusal(decision)

    def _measure(self, decision: Decision, state: RequestState) -> None:
        for row, counter in decision.standing:
            if counter.passed:
                continue
            if row.limit.shadow:
                self._metrics.limit_shadowed.labels(row.bucket.value, row.scope.value).inc()
                continue
            self._metrics.limited.labels(row.bucket.value, row.scope.value).inc()
            self._reports.limit_exceeded(
                state.principal.tenant_id,
                row.bucket.value,
                row.scope.value,
                hashlib.sha256(row.subject.encode()).hexdigest(),
                row.limit.quota,
                state.client_ip,
            )


class RateLimits:
    """429 with Retry-After when a row is used up; RateLimit fields (IETF httpapi draft) in every answer of a limited route."""

    def __init__(
        self, app: ASGIApp, *, limiter: Limiter | None, gate: BlockGate, metrics: GatewayMetrics, reports: Reporter
    ) -> None:
        self._app = app
        self._toll = Toll(limiter, gate, metrics, reports)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        state = request_state(scope)
        await self._toll.charge(state.route.access.bucket if state.route else Bucket.API, state)
        await self._app(scope, receive, send)


def _refusal(decision: Decision) -> WireroomError:
    wait = max(counter.reset for row, counter in decision.standing if not counter.passed and not row.limit.shadow)
    return WireroomError(
        ErrorKind.RATE_LIMITED,
        "rate_limit_exceeded",
        f"Too many requests. Try again in {max(1, math.ceil(wait))} s.",
        retry_after=wait,
    )


def _tell(decision: Decision, state: RequestState) -> None:
    if decision.local:
        state.extra_headers.append((b"x-ratelimit-mode", b"local"))
    states, rows = decision.verdict.states, decision.plan.rows
    place = -1
    for candidate in decision.plan.told:
        if place < 0 or _tightness(states[candidate]) < _tightness(states[place]):
            place = candidate
    if place >= 0:
        counter = states[place]
        limit = f'"{rows[place].name}";r={counter.remaining};t={math.ceil(counter.reset)}'
        state.extra_headers += ((b"ratelimit-policy", decision.plan.policy_field), (b"ratelimit", limit.encode()))


def _tightness(counter: CounterState) -> tuple[bool, int]:
    return counter.passed, counter.remaining
