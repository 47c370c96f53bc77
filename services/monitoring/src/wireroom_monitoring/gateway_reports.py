"""What gateways report: request counts by hour, and events made of the rest."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Protocol
from uuid import UUID

from google.protobuf.message import Message
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from wireroom_common.clock import Clock
from wireroom_common.db import Database
from wireroom_common.errors import WireroomError, invalid
from wireroom_common.inbox import first_sight
from wireroom_common.outbox import emit
from wireroom_monitoring.scopes import INSTALLATION
from wireroom_protos.events.v1 import events_pb2
from wireroom_protos.monitoring.v1 import monitoring_pb2

# Above what a gateway gathers between two reports.
MAX_ROUTES = 10_000
MAX_ENTRIES = 2_000
MOST_ROUTES_READ = 2_000
_LONGEST_TEXT = 512
_MOST_REQUESTS = 10**12
_HIGHEST_CLASS = 5
_CONSUMER = "monitoring.reports"
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_FOLD_BATCH = 5_000
_FOLD_ROUNDS = 100
# The hour that older ones are summed up in.
_BEFORE = datetime.fromisoformat("1970-01-01T00:00:00+00:00")

_ADD = text(
    """
    INSERT INTO route_hours (tenant_id, hour, route, method, status_class, requests, milliseconds_sum)
    SELECT added.tenant_id, date_trunc('hour', CAST(:now AS timestamptz)), added.route, added.method, added.status_class,
        sum(added.requests)::bigint, sum(added.milliseconds)
    FROM unnest(CAST(:tenants AS uuid[]), CAST(:routes AS text[]), CAST(:methods AS text[]), CAST(:classes AS smallint[]),
        CAST(:requests AS bigint[]), CAST(:milliseconds AS double precision[]))
        AS added (tenant_id, route, method, status_class, requests, milliseconds)
    GROUP BY 1, 2, 3, 4, 5 ORDER BY 1, 2, 3, 4, 5
    ON CONFLICT (tenant_id, hour, route, method, status_class) DO UPDATE
    SET requests = route_hours.requests + excluded.requests,
        milliseconds_sum = route_hours.milliseconds_sum + excluded.milliseconds_sum
    """
)
_FOLD = text(
    """
    WITH old AS (
        DELETE FROM route_hours WHERE ctid = ANY(ARRAY(
            SELECT ctid FROM route_hours WHERE hour < :before AND hour > :sum_hour ORDER BY hour LIMIT :limit FOR UPDATE SKIP LOCKED
        )) RETURNING tenant_id, route, method, status_class, requests, milliseconds_sum
    ), summed AS (
        INSERT INTO route_hours (tenant_id, hour, route, method, status_class, requests, milliseconds_sum)
        SELECT tenant_id, CAST(:sum_hour AS timestamptz), route, method, status_class, sum(requests)::bigint, sum(milliseconds_sum)
        FROM old GROUP BY 1, 2, 3, 4, 5 ORDER BY 1, 2, 3, 4, 5
        ON CONFLICT (tenant_id, hour, route, method, status_class) DO UPDATE
        SET requests = route_hours.requests + excluded.requests,
            milliseconds_sum = route_hours.milliseconds_sum + excluded.milliseconds_sum
    )
    SELECT count(*) FROM old
    """
)


class _OfTenant(Protocol):
    tenant_id: str


class GatewayReports:
    """Reports of gateway replicas, each taken once."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def take(self, request: monitoring_pb2.ReportRequest) -> bool:
        """Store the counts and emit the events, all or nothing; False for a report that was taken before. INVALID if it is malformed."""
        report_id = _report_id(request.report_id)
        _check_sizes(request)
        routes = [_checked_counts(entry) for entry in request.routes]
        events = _events(request)
        async with self._database.system() as connection:
            if not await first_sight(connection, _CONSUMER, report_id):
                return False
            await self._add(connection, routes)
            for tenant_id, subject, event in events:
                await emit(connection, event, tenant_id=tenant_id, subject=subject, actor="gateway", causation_id=str(report_id))
        return True

    async def _add(self, connection: AsyncConnection, routes: Sequence[monitoring_pb2.RouteCounts]) -> None:
        if not routes:
            return
        await connection.execute(
            _ADD,
            {
                "now": self._clock.now(),
                "tenants": [_tenant(entry) or INSTALLATION for entry in routes],
                "routes": [entry.route for entry in routes],
                "methods": [entry.method if entry.method in _METHODS else "OTHER" for entry in routes],
                "classes": [entry.status_class for entry in routes],
                "requests": [entry.requests for entry in routes],
                "milliseconds": [entry.milliseconds_sum for entry in routes],
            },
        )

    async def fold(self, keep: timedelta) -> None:
        """Sum up hours older than `keep`: totals stay, their course over time goes. Safe on several replicas at once."""
        before = self._clock.now() - keep
        for _ in range(_FOLD_ROUNDS):
            async with self._database.system() as connection:
                folded = await connection.scalar(_FOLD, {"before": before, "sum_hour": _BEFORE, "limit": _FOLD_BATCH})
            if not folded:
                break


async def read_routes(connection: AsyncConnection) -> list[monitoring_pb2.RouteStats]:
    """Requests by route and method: of the transaction's tenant, or of all in the system's; at most 2,000, most used first."""
    rows = await connection.execute(
        text(
            "SELECT route, method, sum(requests)::bigint AS requests, sum(milliseconds_sum) AS milliseconds_sum,"
            " coalesce(sum(requests) FILTER (WHERE status_class = 4), 0)::bigint AS client_errors,"
            " coalesce(sum(requests) FILTER (WHERE status_class = 5), 0)::bigint AS server_errors"
            " FROM route_hours GROUP BY route, method ORDER BY requests DESC, route, method LIMIT :limit"
        ),
        {"limit": MOST_ROUTES_READ},
    )
    return [
        monitoring_pb2.RouteStats(
            route=row.route,
            method=row.method,
            requests=row.requests,
            client_errors=row.client_errors,
            server_errors=row.server_errors,
            milliseconds_sum=row.milliseconds_sum,
        )
        for row in rows
    ]


def _report_id(text_id: str) -> UUID:
    try:
        return UUID(text_id)
    except ValueError:
        raise _malformed("report_id must be a UUID.", "report_id") from None


def _check_sizes(request: monitoring_pb2.ReportRequest) -> None:
    for field, most in (("routes", MAX_ROUTES), ("samples", MAX_ENTRIES), ("threats", MAX_ENTRIES), ("exceeded", MAX_ENTRIES)):
        entries: Sequence[Message] = getattr(request, field)
        if len(entries) > most:
            raise _malformed(f"A report may have at most {most} {field}.", field)
        for entry in entries:
            for descriptor, value in entry.ListFields():
                if isinstance(value, str) and (len(value) > _LONGEST_TEXT or "\x00" in value):
                    raise _malformed(
                        f"{field}.{descriptor.name} may have at most {_LONGEST_TEXT} characters and no NUL.",
                        f"{field}.{descriptor.name}",
                    )
                if isinstance(value, float) and not (math.isfinite(value) and value >= 0):
                    raise _malformed(
                        f"{field}.{descriptor.name} must be a finite number, not negative.", f"{field}.{descriptor.name}"
                    )


def _checked_counts(entry: monitoring_pb2.RouteCounts) -> monitoring_pb2.RouteCounts:
    if not 0 <= entry.status_class <= _HIGHEST_CLASS:
        raise _malformed("routes.status_class must be between 0 and 5.", "routes.status_class")
    if not 0 <= entry.requests <= _MOST_REQUESTS:
        raise _malformed("routes.requests is out of range.", "routes.requests")
    return entry


def _events(request: monitoring_pb2.ReportRequest) -> list[tuple[UUID | None, str, Any]]:
    found: list[tuple[UUID | None, str, Any]] = []
    for sample in request.samples:
        completed = events_pb2.GatewayRequestCompleted(
            route=sample.route,
            method=sample.method,
            status=sample.status,
            milliseconds=sample.milliseconds,
            overhead_milliseconds=sample.overhead_milliseconds,
            principal_sha256=sample.principal_sha256,
            request_id=sample.request_id,
        )
        found.append((_tenant(sample), sample.route, completed))
    for threat in request.threats:
        detected = events_pb2.GatewayThreatDetected(
            kind=threat.kind,
            score=threat.score,
            route=threat.route,
            client_ip=threat.client_ip,
            sample_sha256=threat.sample_sha256,
            blocked=threat.blocked,
        )
        found.append((_tenant(threat), threat.route, detected))
    for exceeded in request.exceeded:
        limit = events_pb2.GatewayRatelimitExceeded(
            bucket=exceeded.bucket,
            scope=exceeded.scope,
            subject_sha256=exceeded.subject_sha256,
            limit=exceeded.limit,
            client_ip=exceeded.client_ip,
            count=exceeded.count,
        )
        found.append((_tenant(exceeded), exceeded.subject_sha256, limit))
    return found


def _tenant(entry: _OfTenant) -> UUID | None:
    if not entry.tenant_id:
        return None
    try:
        return UUID(entry.tenant_id)
    except ValueError:
        raise _malformed("tenant_id must be a UUID or empty.", "tenant_id") from None


def _malformed(detail: str, field: str) -> WireroomError:
    return invalid("report_malformed", detail, field=field)
