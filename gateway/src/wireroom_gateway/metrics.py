"""The gateway's metrics. Every label has a closed set of values."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0)


class GatewayMetrics:
    """Registered on the registry it is given."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.requests = Counter(
            "wireroom_gateway_requests_total",
            "Requests answered, by route template, method and status class",
            ["route", "method", "status"],
            registry=registry,
        )
        self.seconds = Histogram(
            "wireroom_gateway_request_seconds",
            "Time from the request's head to the answer's end",
            ["route", "method"],
            buckets=_BUCKETS,
            registry=registry,
        )
        self.in_progress = Gauge("wireroom_gateway_requests_in_progress", "Requests being answered", registry=registry)
        self.limited = Counter(
            "wireroom_gateway_limited_total", "Requests refused by a rate limit", ["bucket", "scope"], registry=registry
        )
        self.limit_fallbacks = Counter(
            "wireroom_gateway_limit_fallbacks_total", "Requests seen while the shared counter store was away", registry=registry
        )
        self.credentials = Counter(
            "wireroom_gateway_credentials_total",
            "Credentials presented: cached, verified, refused, unavailable",
            ["kind", "outcome"],
            registry=registry,
        )
