"""What this replica tells monitoring: request counts, sampled requests, threats, exceeded limits.

Best effort, bounded, never in a request's way.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from google.protobuf.timestamp_pb2 import Timestamp

from wireroom_common.clock import Clock
from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_common.ids import new_id
from wireroom_common.logging import get_logger
from wireroom_common.principal import PrincipalKind
from wireroom_common.rpc import acting_as_service
from wireroom_gateway.metrics import GatewayMetrics
from wireroom_gateway.request_state import RequestState
from wireroom_protos.monitoring.v1 import monitoring_pb2, monitoring_pb2_grpc

# Of each kind between two reports; a report of all of them stays far below the largest message.
MAX_ROUTES = 5_000
MAX_SAMPLES = 1_000
MAX_THREATS = 1_000
MAX_EXCEEDED = 1_000
_SERVER_ERROR = 500
_log = get_logger(__name__)


@dataclass(slots=True)
class _RouteCount:
    requests: int = 0
    milliseconds: float = 0.0


@dataclass(slots=True)
class _Gathered:
    """What was seen since the last report was put together."""

    routes: dict[tuple[str, str, str, int], _RouteCount] = field(default_factory=dict)
    samples: deque[monitoring_pb2.SampledRequest] = field(default_factory=deque)
    threats: deque[monitoring_pb2.Threat] = field(default_factory=deque)
    exceeded: OrderedDict[tuple[str, str, str, str], monitoring_pb2.LimitExceeded] = field(default_factory=OrderedDict)

    @property
    def empty(self) -> bool:
        return not (self.routes or self.samples or self.threats or self.exceeded)


class Reporter:
    """Gathers in memory and sends every `interval` seconds.

    Holds at most two reports: one that could not be delivered yet, which is repeated under the id it had, and one that grows. What does
    not fit any more pushes the oldest of its kind out (of counts: is left out), and is counted. Nothing here holds a header, a path, a
    body or a query: routes are templates, callers are hashes.
    """

    def __init__(
        self,
        stub: monitoring_pb2_grpc.MetricsServiceAsyncStub,
        clock: Clock,
        metrics: GatewayMetrics,
        *,
        sample_rate: float,
        interval: float,
        timeout: float,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._stub = stub
        self._clock = clock
        self._metrics = metrics
        self._sample_rate = sample_rate
        self._interval = interval
        self._timeout = timeout
        self._chance = chance
        self._gathered = _Gathered()
        self._unsent: monitoring_pb2.ReportRequest | None = None
        self._sending = asyncio.Lock()

    def request(self, state: RequestState, method: str, *, milliseconds: float) -> None:
        """Count an answered request; every one that failed on this side, and a sample of the others, is also told singly."""
        tenant = state.principal.tenant_text
        key = (tenant, state.template, method, state.status // 100)
        count = self._gathered.routes.get(key)
        if count is None:
            if len(self._gathered.routes) >= MAX_ROUTES:
                self._dropped("route")
                return
            count = self._gathered.routes[key] = _RouteCount()
        count.requests += 1
        count.milliseconds += milliseconds
        if state.status >= _SERVER_ERROR or self._chance() < self._sample_rate:
            sample = monitoring_pb2.SampledRequest(
                time=self._now(),
                tenant_id=tenant,
                route=state.template,
                method=method,
                status=state.status,
                milliseconds=milliseconds,
                principal_sha256=_principal_hash(state),
                request_id=state.request_id,
            )
            self._append(self._gathered.samples, sample, MAX_SAMPLES, "sample")

    def threat(self, state: RequestState, kind: str, score: int, *, sample_sha256: str, blocked: bool) -> None:
        """Tell of a request that looked like an attack."""
        threat = monitoring_pb2.Threat(
            time=self._now(),
            tenant_id=str(state.principal.tenant_id or ""),
            kind=kind,
            score=score,
            route=state.template,
            client_ip=state.client_ip,
            sample_sha256=sample_sha256,
            blocked=blocked,
        )
        self._append(self._gathered.threats, threat, MAX_THREATS, "threat")

    def limit_exceeded(  # noqa: PLR0917 - the fields of the event, in its order
        self, tenant_id: UUID | None, bucket: str, scope: str, subject_sha256: str, limit: int, client_ip: str
    ) -> None:
        """Tell of a refusal by a rate limit; refusals of one row for one subject are summed up between two reports."""
        tenant = str(tenant_id or "")
        key = (tenant, bucket, scope, subject_sha256)
        exceeded = self._gathered.exceeded.get(key)
        if exceeded is None:
            if len(self._gathered.exceeded) >= MAX_EXCEEDED:
                self._gathered.exceeded.popitem(last=False)
                self._dropped("exceeded")
            exceeded = self._gathered.exceeded[key] = monitoring_pb2.LimitExceeded(
                time=self._now(),
                tenant_id=tenant,
                bucket=bucket,
                scope=scope,
                subject_sha256=subject_sha256,
                limit=limit,
                client_ip=client_ip,
            )
        exceeded.count += 1

    async def run(self) -> None:
        """Send every `interval` seconds until cancelled, and once more then.

        Cancelled is a process that has answered its last request, while the services still take calls.
        """
        try:
            while True:
                await asyncio.sleep(self._interval)
                await self.flush()
        finally:
            # The first may only deliver what was not taken before.
            if await self.flush():
                await self.flush()

    async def flush(self) -> bool:
        """Send what there is; False if monitoring did not take it, which then is tried again with the next call."""
        async with self._sending:
            if self._unsent is None:
                if self._gathered.empty:
                    return True
                self._unsent = self._take()
            try:
                with acting_as_service():
                    await self._stub.Report(self._unsent, timeout=self._timeout)
            except WireroomError as error:
                self._metrics.reports.labels("failed").inc()
                if error.kind is ErrorKind.INVALID:
                    # It would be refused for ever, and hold up all that comes after it.
                    _log.error("report_refused", code=error.code)
                    self._unsent = None
                else:
                    _log.debug("report_failed", code=error.code)
                return False
            self._unsent = None
            self._metrics.reports.labels("sent").inc()
            return True

    def _take(self) -> monitoring_pb2.ReportRequest:
        gathered, self._gathered = self._gathered, _Gathered()
        return monitoring_pb2.ReportRequest(
            report_id=str(new_id()),
            routes=[
                monitoring_pb2.RouteCounts(
                    tenant_id=tenant,
                    route=route,
                    method=method,
                    status_class=status_class,
                    requests=count.requests,
                    milliseconds_sum=count.milliseconds,
                )
                for (tenant, route, method, status_class), count in gathered.routes.items()
            ],
            samples=gathered.samples,
            threats=gathered.threats,
            exceeded=gathered.exceeded.values(),
        )

    def _append(self, entries: deque[Any], entry: Any, most: int, kind: str) -> None:
        if len(entries) >= most:
            entries.popleft()
            self._dropped(kind)
        entries.append(entry)

    def _dropped(self, kind: str) -> None:
        self._metrics.report_entries_dropped.labels(kind).inc()

    def _now(self) -> Timestamp:
        moment = Timestamp()
        moment.FromDatetime(self._clock.now())
        return moment


def _principal_hash(state: RequestState) -> str:
    principal = state.principal
    if principal.kind is PrincipalKind.ANONYMOUS:
        return ""
    return hashlib.sha256(f"{principal.kind}:{principal.credential_id or principal.subject}".encode()).hexdigest()
