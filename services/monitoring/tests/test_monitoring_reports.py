"""Reports of the gateways: counted once, told as events, shown to whom they belong."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from google.protobuf.message import Message
from sqlalchemy import text

from wireroom_common.bus import Catalogue
from wireroom_common.clock import ManualClock
from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_common.ids import new_id
from wireroom_common.principal import ANONYMOUS, Principal, PrincipalKind, set_current_principal
from wireroom_monitoring.gateway_reports import GatewayReports
from wireroom_protos.events.v1 import events_pb2 as events
from wireroom_protos.monitoring.v1 import monitoring_pb2 as pb

ALPHA = UUID("0190a000-0000-7000-8000-00000000000a")
BETA = UUID("0190a000-0000-7000-8000-00000000000b")
GATEWAY = Principal(PrincipalKind.SERVICE, "gateway")


def counts(route: str = "/api/v1/news", tenant: UUID | None = ALPHA, **fields: Any) -> pb.RouteCounts:
    given = {"method": "GET", "status_class": 2, "requests": 1, "milliseconds_sum": 10.0, **fields}
    return pb.RouteCounts(route=route, tenant_id=str(tenant or ""), **given)


async def report(monitoring: Any, caller: Principal = GATEWAY, **fields: Any) -> None:
    set_current_principal(caller)
    try:
        await monitoring.methods.call("MetricsService/Report", pb.ReportRequest(**{"report_id": str(new_id()), **fields}))
    finally:
        set_current_principal(None)


async def outbox(monitoring: Any, catalogue: Catalogue) -> list[tuple[UUID | None, Message]]:
    async with monitoring.database.system() as connection:
        rows = await connection.execute(text("SELECT tenant_id, type, data FROM outbox ORDER BY id"))
        return [(row.tenant_id, catalogue.events[row.type].payload.FromString(row.data)) for row in rows]


async def test_counts_are_summed_and_shown_to_their_tenant_and_all_to_operators(monitoring: Any) -> None:
    for _ in range(2):
        await report(
            monitoring,
            routes=[
                counts(requests=3, milliseconds_sum=30),
                counts(requests=2, milliseconds_sum=5),
                counts(requests=4, status_class=4),
                counts(requests=1, status_class=5),
                counts("/v1/models", method="BREW"),
                counts(tenant=BETA),
                counts("/auth/login", None, method="POST", status_class=4, requests=7),
            ],
        )

    def shown(stats: Any) -> dict[tuple[str, str], tuple[int, int, int, float]]:
        return {
            (one.route, one.method): (one.requests, one.client_errors, one.server_errors, one.milliseconds_sum)
            for one in stats.routes
        }

    alpha = {("/api/v1/news", "GET"): (20, 8, 2, 110.0), ("/v1/models", "OTHER"): (2, 0, 0, 20.0)}
    assert shown(await monitoring.stats(ALPHA)) == alpha
    assert shown(await monitoring.stats(BETA)) == {("/api/v1/news", "GET"): (2, 0, 0, 20.0)}
    everything = shown(await monitoring.stats(ALPHA, "platform_admin"))
    assert everything == alpha | {("/api/v1/news", "GET"): (22, 8, 2, 130.0), ("/auth/login", "POST"): (14, 14, 0, 20.0)}


async def test_a_repeated_report_changes_nothing(monitoring: Any, catalogue: Catalogue) -> None:
    same: dict[str, Any] = {
        "report_id": str(new_id()),
        "routes": [counts(requests=5)],
        "samples": [pb.SampledRequest(route="/x")],
    }
    await asyncio.gather(*(report(monitoring, **same) for _ in range(6)))
    await report(monitoring, **same)
    assert [one.requests for one in (await monitoring.stats(ALPHA)).routes] == [5]
    assert len(await outbox(monitoring, catalogue)) == 1


async def test_reports_of_many_replicas_at_once_lose_nothing(monitoring: Any) -> None:
    routes = [f"/route/{number}" for number in range(20)]
    await asyncio.gather(
        *(
            report(monitoring, routes=[counts(route, requests=number + 1) for route in (routes if number % 2 else routes[::-1])])
            for number in range(10)
        )
    )
    found = (await monitoring.stats(ALPHA)).routes
    assert {one.route: one.requests for one in found} == dict.fromkeys(routes, 55)


async def test_samples_threats_and_exceeded_limits_become_events_of_their_tenants(monitoring: Any, catalogue: Catalogue) -> None:
    await report(
        monitoring,
        samples=[
            pb.SampledRequest(
                tenant_id=str(ALPHA),
                route="/a",
                method="GET",
                status=200,
                milliseconds=3.5,
                overhead_milliseconds=0.5,
                principal_sha256="p",
                request_id="r",
            )
        ],
        threats=[
            pb.Threat(
                tenant_id=str(BETA), kind="sql", score=7, route="/b", client_ip="192.0.2.1", sample_sha256="s", blocked=True
            )
        ],
        exceeded=[pb.LimitExceeded(bucket="chat", scope="ip", subject_sha256="h", limit=10, client_ip="192.0.2.1", count=90)],
    )
    assert await outbox(monitoring, catalogue) == [
        (
            ALPHA,
            events.GatewayRequestCompleted(
                route="/a",
                method="GET",
                status=200,
                milliseconds=3.5,
                overhead_milliseconds=0.5,
                principal_sha256="p",
                request_id="r",
            ),
        ),
        (
            BETA,
            events.GatewayThreatDetected(kind="sql", score=7, route="/b", client_ip="192.0.2.1", sample_sha256="s", blocked=True),
        ),
        (
            None,
            events.GatewayRatelimitExceeded(
                bucket="chat", scope="ip", subject_sha256="h", limit=10, client_ip="192.0.2.1", count=90
            ),
        ),
    ]


@pytest.mark.parametrize(
    "fields",
    [
        {"report_id": "x"},
        {"routes": [counts(status_class=6)]},
        {"routes": [counts(status_class=-1)]},
        {"routes": [counts(requests=-1)]},
        {"routes": [counts(requests=10**13)]},
        {"routes": [counts(milliseconds_sum=float("nan"))]},
        {"routes": [counts(milliseconds_sum=-1.0)]},
        {"routes": [counts("x" * 513)]},
        {"routes": [counts("\x00")]},
        {"routes": [pb.RouteCounts(tenant_id="nobody", requests=1)]},
        {"routes": [counts()] * 10_001},
        {"samples": [pb.SampledRequest(milliseconds=float("inf"))]},
        {"samples": [pb.SampledRequest(tenant_id="nobody")]},
        {"samples": [pb.SampledRequest()] * 2_001},
        {"threats": [pb.Threat(route="x" * 513)]},
        {"exceeded": [pb.LimitExceeded()] * 2_001},
    ],
)
async def test_a_malformed_report_is_refused_whole(monitoring: Any, catalogue: Catalogue, fields: dict[str, Any]) -> None:
    good = {"routes": [counts()], "samples": [pb.SampledRequest(route="/x")]}
    merged = {**good, **{name: value if name == "report_id" else [*good.get(name, []), *value] for name, value in fields.items()}}
    with pytest.raises(WireroomError) as refused:
        await report(monitoring, **merged)
    assert (refused.value.kind, refused.value.code) == (ErrorKind.INVALID, "report_malformed")
    assert not (await monitoring.stats(ALPHA)).routes
    assert await outbox(monitoring, catalogue) == []


@pytest.mark.parametrize(
    "caller",
    [
        ANONYMOUS,
        Principal(PrincipalKind.SERVICE, "rag"),
        Principal(PrincipalKind.USER, "gateway", ALPHA, permissions=frozenset({"monitoring:read"})),
    ],
)
async def test_only_the_gateway_reports(monitoring: Any, caller: Principal) -> None:
    with pytest.raises(WireroomError) as refused:
        await report(monitoring, caller, routes=[counts()])
    assert refused.value.kind is ErrorKind.FORBIDDEN


async def test_old_hours_are_summed_up_without_changing_the_totals(monitoring: Any) -> None:
    clock = ManualClock(datetime(2026, 1, 1, tzinfo=UTC))
    reports = GatewayReports(monitoring.database, clock)
    for _ in range(5):
        await reports.take(pb.ReportRequest(report_id=str(new_id()), routes=[counts(requests=2), counts(tenant=BETA)]))
        clock.advance(86_400)

    async def rows() -> int:
        async with monitoring.database.system() as connection:
            return int(await connection.scalar(text("SELECT count(*) FROM route_hours")))

    assert await rows() == 10
    for kept in (3, 3, 1):
        await asyncio.gather(*(reports.fold(timedelta(days=kept)) for _ in range(3)))
        assert await rows() == 2 * (kept + 1)
        assert [one.requests for one in (await monitoring.stats(ALPHA)).routes] == [10]
        assert [one.requests for one in (await monitoring.stats(BETA)).routes] == [5]


async def test_tenants_only_read_what_was_reported(monitoring: Any) -> None:
    await report(monitoring, routes=[counts()])
    async with monitoring.database.system() as connection:
        held = await connection.execute(
            text(
                "SELECT t, string_agg(r, ' ' ORDER BY r) FROM unnest(ARRAY['route_hours', 'security_hours', 'security_subjects',"
                " 'security_alarms']) t, unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE', 'TRUNCATE']) r"
                " WHERE has_table_privilege('monitoring_app', 'monitoring.' || t, r) GROUP BY t"
            )
        )
        assert {row[0]: row[1] for row in held} == dict.fromkeys(("route_hours", "security_hours", "security_subjects"), "SELECT")
    async with monitoring.database.tenant(BETA) as connection:
        assert await connection.scalar(text("SELECT count(*) FROM route_hours")) == 0
