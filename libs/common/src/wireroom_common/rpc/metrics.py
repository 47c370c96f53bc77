"""Counters and durations of calls. One object per registry and side, shared by all servers or channels of the process."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Histogram

from wireroom_common.errors import ErrorKind

OK = "ok"
CANCELLED = "cancelled"
UNIMPLEMENTED = "unimplemented"
# Every value the label `kind` can have.
KINDS = frozenset({OK, CANCELLED, UNIMPLEMENTED, *(kind.value for kind in ErrorKind)})

_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0, 600.0)


class _CallMetrics:
    def __init__(self, side: str, registry: CollectorRegistry) -> None:
        self._calls = Counter(
            f"wireroom_rpc_{side}_calls", "Finished calls by outcome.", ["service", "method", "kind"], registry=registry
        )
        self._duration = Histogram(
            f"wireroom_rpc_{side}_duration_seconds",
            "Time from the start of a call to its end.",
            ["service", "method", "kind"],
            registry=registry,
            buckets=_BUCKETS,
        )
        # Looking a label set up costs more than counting.
        self._children: dict[tuple[str, str, str], tuple[Counter, Histogram]] = {}

    def observe(self, service: str, method: str, kind: str, seconds: float) -> None:
        """Count one finished call. Service and method are names of a contract, `kind` is one of KINDS."""
        children = self._children.get((service, method, kind))
        if children is None:
            if kind not in KINDS:
                raise ValueError(f"{kind!r} is not an outcome of a call")
            children = self._calls.labels(service, method, kind), self._duration.labels(service, method, kind)
            self._children[service, method, kind] = children
        calls, duration = children
        calls.inc()
        duration.observe(seconds)


class ServerMetrics(_CallMetrics):
    """`wireroom_rpc_server_calls_total` and `wireroom_rpc_server_duration_seconds`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        super().__init__("server", registry)


class ClientMetrics(_CallMetrics):
    """`wireroom_rpc_client_calls_total` and `wireroom_rpc_client_duration_seconds`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        super().__init__("client", registry)
