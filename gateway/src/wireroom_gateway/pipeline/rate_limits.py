"""Charges the limits of the route's bucket, and tells the caller how they stand."""

from __future__ import annotations

import hashlib
import math

from starlette.types import ASGIApp, Receive, Scope, Send

from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_gateway.access import Bucket
from wireroom_gateway.limits.limiter import Decision, Limiter
from wireroom_gateway.limits.policy import LimitScope
from wireroom_gateway.metrics import GatewayMetrics
from wireroom_gateway.pipeline.blocked_addresses import BlockGate
from wireroom_gateway.reports import Reporter
from wireroom_gateway.request_state import RequestState, request_state


class RateLimits:
    """429 with Retry-After when a row is used up; RateLimit fields (IETF httpapi draft) in every answer of a limited route."""

    def __init__(
        self, app: ASGIApp, *, limiter: Limiter | None, gate: BlockGate, metrics: GatewayMetrics, reports: Reporter
    ) -> None:
        self._app = app
        self._limiter = limiter
        self._gate = gate
        self._metrics = metrics
        self._reports = reports

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        state = request_state(scope)
        self._gate.refuse_blocked(state)
        bucket = state.route.access.bucket if state.route else Bucket.API
        if self._limiter is not None and bucket is not None:
            decision = await self._limiter.charge(bucket, state.principal, state.client_ip, state.limits)
            if decision is not None:
                _tell(decision, state)
                self._measure(decision, state)
                if not decision.verdict.allowed:
                    if decision.blocked:
                        self._gate.violated(state, decision.verdict.violations)
                    raise _refusal(decision)
        await self._app(scope, receive, send)

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
    # How busy the whole installation is, is nobody's business; what refuses nothing need not be heeded.
    told = [(row, counter) for row, counter in decision.standing if row.scope is not LimitScope.GLOBAL and not row.limit.shadow]
    if not told:
        return
    policy = ", ".join(f'"{row.name}";q={row.limit.quota};w={row.limit.window}' for row, _ in told)
    tightest, counter = min(told, key=lambda entry: (entry[1].passed, entry[1].remaining))
    limit = f'"{tightest.name}";r={counter.remaining};t={math.ceil(counter.reset)}'
    state.extra_headers += ((b"ratelimit-policy", policy.encode()), (b"ratelimit", limit.encode()))
