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
        self.websockets = Gauge("wireroom_gateway_websockets", "Open WebSockets", registry=registry)
        self.websockets_closed = Counter(
            "wireroom_gateway_websockets_closed_total", "Ended WebSockets by close code", ["code"], registry=registry
        )
        self.refused = Counter(
            "wireroom_gateway_refused_total", "Requests that the listener refused, by code", ["code"], registry=registry
        )
        self.limited = Counter(
            "wireroom_gateway_limited_total", "Requests refused by a rate limit", ["bucket", "scope"], registry=registry
        )
        self.limit_fallbacks = Counter(
            "wireroom_gateway_limit_fallbacks_total", "Requests seen while the shared counter store was away", registry=registry
        )
        self.limit_shadowed = Counter(
            "wireroom_gateway_limit_shadowed_total",
            "Requests that a rate limit in shadow mode would have refused",
            ["bucket", "scope"],
            registry=registry,
        )
        self.policy_loads = Counter(
            "wireroom_gateway_limit_policy_loads_total",
            "Changes of the policy file: loaded, refused",
            ["outcome"],
            registry=registry,
        )
        self.policy_bad = Gauge(
            "wireroom_gateway_limit_policy_bad",
            "1 while the policy file cannot be used and an older one is in force",
            registry=registry,
        )
        self.blocked_addresses = Gauge("wireroom_gateway_blocked_addresses", "Blocks in force", registry=registry)
        self.blocked_requests = Counter(
            "wireroom_gateway_blocked_requests_total",
            "Requests of blocked callers, by kind of caller",
            ["caller"],
            registry=registry,
        )
        self.block_reports = Counter(
            "wireroom_gateway_block_reports_total",
            "New blocks reported to auth: sent, failed, refused, dropped",
            ["outcome"],
            registry=registry,
        )
        self.credentials = Counter(
            "wireroom_gateway_credentials_total",
            "Credentials presented: cached, verified, refused, unavailable",
            ["kind", "outcome"],
            registry=registry,
        )
        self.reports = Counter(
            "wireroom_gateway_reports_total", "Reports to monitoring: sent, failed", ["outcome"], registry=registry
        )
        self.report_entries_dropped = Counter(
            "wireroom_gateway_report_entries_dropped_total",
            "Entries that did not fit into a report to monitoring",
            ["kind"],
            registry=registry,
        )
        self.threats = Counter(
            "wireroom_gateway_threats_total", "Requests that looked like an attack", ["kind", "blocked"], registry=registry
        )
        self.idempotent = Counter(
            "wireroom_gateway_idempotent_requests_total",
            "Requests with an Idempotency-Key: first, replayed, in_flight, reused, not_kept, unavailable",
            ["outcome"],
            registry=registry,
        )
        # Looking a label set up costs more than counting.
        self._of_route: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}
        self._presented: dict[tuple[str, str], Counter] = {}

    def of_route(self, route: str, method: str, status_class: int) -> tuple[Counter, Histogram]:
        """`requests` and `seconds` of one kind of answer. Labels have closed sets of values, so there are few."""
        key = (route, method, status_class)
        found = self._of_route.get(key)
        if found is None:
            found = self.requests.labels(route, method, f"{status_class}xx"), self.seconds.labels(route, method)
            self._of_route[key] = found
        return found

    def credential(self, kind: str, outcome: str) -> None:
        """Count a presented credential."""
        counter = self._presented.get((kind, outcome))
        if counter is None:
            counter = self._presented[kind, outcome] = self.credentials.labels(kind, outcome)
        counter.inc()
