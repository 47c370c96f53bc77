"""MetricsService and EventLogService."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from google.protobuf import json_format

from wireroom_common.bus import Catalogue
from wireroom_common.clock import Clock
from wireroom_common.db import Database
from wireroom_common.errors import ErrorKind, WireroomError, invalid
from wireroom_common.principal import PrincipalKind, current_principal
from wireroom_monitoring.counters import EVENT_PREFIX, NAMED_COUNTERS
from wireroom_monitoring.event_log import Entry, read_after
from wireroom_monitoring.gateway_reports import GatewayReports, read_routes
from wireroom_monitoring.security import read_security
from wireroom_monitoring.security_score import expected_failures
from wireroom_monitoring.stats import read_stats
from wireroom_protos.monitoring.v1 import monitoring_pb2, monitoring_pb2_grpc

PERMISSION = "monitoring:read"
SECURITY = "security:read"
OPERATOR_ROLE = "platform_admin"
DEFAULT_PAGE = 100
MAX_PAGE = 500
# A page ends early rather than outgrow what a gRPC message may hold by default (4 MiB).
MAX_PAGE_BYTES = 2 * 1024 * 1024


class MetricsServicer(monitoring_pb2_grpc.MetricsServiceServicer):
    """Counts and the security score from the projections; reports of the gateways."""

    def __init__(self, database: Database, clock: Clock, reports: GatewayReports, *, security_threshold: int) -> None:
        self._database = database
        self._clock = clock
        self._reports = reports
        self._security_threshold = security_threshold

    async def Report(  # noqa: N802 - gRPC's naming
        self, request: monitoring_pb2.ReportRequest, context: Any
    ) -> monitoring_pb2.ReportResponse:
        """For the gateways alone."""
        del context
        principal = current_principal()
        if principal.kind is not PrincipalKind.SERVICE or principal.subject != "gateway":
            raise WireroomError(ErrorKind.FORBIDDEN, "gateway_required", "Only the gateway reports requests.")
        await self._reports.take(request)
        return monitoring_pb2.ReportResponse()

    async def GetSecurity(  # noqa: N802 - gRPC's naming
        self, request: monitoring_pb2.GetSecurityRequest, context: Any
    ) -> monitoring_pb2.GetSecurityResponse:
        """The caller's tenant; the installation with all tenants for operators."""
        del request, context
        principal = current_principal()
        principal.require(SECURITY)
        everything = OPERATOR_ROLE in principal.roles
        async with self._database.system() if everything else self._database.tenant(principal.tenant()) as connection:
            security = await read_security(connection, self._clock.now())
        seen = security.seen
        response = monitoring_pb2.GetSecurityResponse(
            score=security.score.value,
            threshold=self._security_threshold,
            parts=[
                monitoring_pb2.ScorePart(name=part.name, points=part.points, count=part.count) for part in security.score.parts
            ],
            logins_failed=seen.logins_failed,
            logins_succeeded=seen.logins_succeeded,
            addresses_blocked=seen.addresses_blocked,
            threats=seen.threats,
            failed_by_reason=[
                monitoring_pb2.ReasonCount(reason=reason, count=count) for reason, count in seen.failed_by_reason.items()
            ],
            failed_accounts=seen.failed_accounts,
            failed_addresses=seen.failed_addresses,
            failures_expected=expected_failures(seen.failed_by_day_before),
        )
        for logins in security.by_hour:
            hour = response.by_hour.add(failed=logins.failed, succeeded=logins.succeeded)
            hour.hour.FromDatetime(logins.hour)
        return response

    async def GetStats(  # noqa: N802 - gRPC's naming
        self, request: monitoring_pb2.GetStatsRequest, context: Any
    ) -> monitoring_pb2.GetStatsResponse:
        """The caller's tenant; the sum over all tenants for operators."""
        del request, context
        principal = current_principal()
        principal.require(PERMISSION)
        everything = OPERATOR_ROLE in principal.roles
        async with self._database.system() if everything else self._database.tenant(principal.tenant()) as connection:
            stats = await read_stats(connection)
            routes = await read_routes(connection)
        return monitoring_pb2.GetStatsResponse(
            **{name: stats.counters.get(name, 0) for name in NAMED_COUNTERS},
            events=[
                monitoring_pb2.EventCount(type=counter.removeprefix(EVENT_PREFIX), count=value)
                for counter, value in sorted(stats.counters.items())
                if counter.startswith(EVENT_PREFIX)
            ],
            offset=stats.offset,
            routes=routes,
        )


class EventLogServicer(monitoring_pb2_grpc.EventLogServiceServicer):
    """The log from a cursor."""

    def __init__(self, database: Database, catalogue: Catalogue) -> None:
        self._database = database
        self._catalogue = catalogue

    async def ReadEvents(  # noqa: N802 - gRPC's naming
        self, request: monitoring_pb2.ReadEventsRequest, context: Any
    ) -> monitoring_pb2.ReadEventsResponse:
        """The caller's tenant's events.

        Operators see the events of all tenants and of the installation, but of other tenants' events neither payload nor names: they
        may know that something happened, not what it was about.
        """
        del context
        principal = current_principal()
        principal.require(PERMISSION)
        limit = self._checked(request)
        everything = OPERATOR_ROLE in principal.roles
        async with self._database.system() if everything else self._database.tenant(principal.tenant()) as connection:
            entries = await read_after(connection, request.after_offset, limit=limit, event_type=request.type)
        return await asyncio.to_thread(self._page, entries, request.after_offset, principal.tenant_id)

    def _checked(self, request: monitoring_pb2.ReadEventsRequest) -> int:
        if request.after_offset < 0:
            raise invalid(
                "offset_negative", "after_offset must be 0 or the next_offset of an earlier page.", field="after_offset"
            )
        if not 0 <= request.page_size <= MAX_PAGE:
            raise invalid("page_size_out_of_range", f"page_size must be between 1 and {MAX_PAGE}.", field="page_size")
        if request.type and request.type not in self._catalogue.events:
            raise invalid("event_type_unknown", f"There is no event type '{request.type[:100]}'.", field="type")
        return request.page_size or DEFAULT_PAGE

    def _page(self, entries: Sequence[Entry], after: int, reader: UUID | None) -> monitoring_pb2.ReadEventsResponse:
        response = monitoring_pb2.ReadEventsResponse(next_offset=after)
        size = 0
        for entry in entries:
            own = entry.tenant_id in (None, reader)
            event = monitoring_pb2.LoggedEvent(
                offset=entry.offset,
                id=str(entry.id),
                type=entry.type,
                source=entry.source,
                # A subject is an id, or the name of something.
                subject=entry.subject if own or _is_id(entry.subject) else "",
                data_json=self._render(entry) if own else "",
            )
            event.time.FromDatetime(entry.time)
            size += event.ByteSize()
            if size > MAX_PAGE_BYTES and response.events:
                break
            response.events.append(event)
            response.next_offset = entry.offset
        return response

    def _render(self, entry: Entry) -> str:
        spec = self._catalogue.events.get(entry.type)
        if spec is None:
            # Written by a newer version of this service.
            return ""
        return json_format.MessageToJson(spec.payload.FromString(entry.data), preserving_proto_field_name=True, indent=None)


def _is_id(text: str) -> bool:
    try:
        UUID(text)
    except ValueError:
        return False
    return True
