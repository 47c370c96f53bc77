"""Charges the limits of the route's bucket, and tells the caller how they stand."""

from __future__ import annotations

import math

from starlette.types import ASGIApp, Receive, Scope, Send

from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_gateway.access import Bucket
from wireroom_gateway.limits.limiter import Decision, Limiter
from wireroom_gateway.limits.policy import LimitScope
from wireroom_gateway.metrics import GatewayMetrics
from wireroom_gateway.request_state import RequestState, request_state


class RateLimits:
    """429 with Retry-After when a row is used up; RateLimit fields (IETF httpapi draft) in every answer of a limited route."""

    def __init__(self, app: ASGIApp, *, limiter: Limiter | None, metrics: GatewayMetrics) -> None:
        self._app = app
        self._limiter = limiter
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        state = request_state(scope)
        bucket = state.route.access.bucket if state.route else Bucket.API
        if self._limiter is not None and bucket is not None:
            decision = await self._limiter.charge(bucket, state.principal, state.client_ip)
            if decision is not None:
                _tell(decision, state)
                if not decision.verdict.allowed:
                    raise self._refusal(decision)
        await self._app(scope, receive, send)

    def _refusal(self, decision: Decision) -> WireroomError:
        wait = 0.0
        for (bucket, scope), counter in zip(decision.rows, decision.verdict.states, strict=True):
            if not counter.passed:
                self._metrics.limited.labels(bucket.value, scope.value).inc()
                wait = max(wait, counter.reset)
        return WireroomError(
            ErrorKind.RATE_LIMITED,
            "rate_limit_exceeded",
            f"Too many requests. Try again in {max(1, math.ceil(wait))} s.",
            retry_after=wait,
        )


def _tell(decision: Decision, state: RequestState) -> None:
    if decision.local:
        state.extra_headers.append((b"x-ratelimit-mode", b"local"))
    # How busy the whole installation is, is nobody's business.
    told = [
        (f'"{bucket}-{scope}"', counter)
        for (bucket, scope), counter in zip(decision.rows, decision.verdict.states, strict=True)
        if scope is not LimitScope.GLOBAL
    ]
    if not told:
        return
    policy = ", ".join(f"{name};q={counter.counter.limit.quota};w={counter.counter.limit.window}" for name, counter in told)
    name, tightest = min(told, key=lambda entry: (entry[1].passed, entry[1].remaining))
    limit = f"{name};r={tightest.remaining};t={math.ceil(tightest.reset)}"
    state.extra_headers += ((b"ratelimit-policy", policy.encode()), (b"ratelimit", limit.encode()))
