"""The security score: what costs how much, the projection it is read from, and the alarm."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from google.protobuf.message import Message
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import text

from wireroom_common.clock import ManualClock
from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_monitoring.security import SecurityAlarm, read_security
from wireroom_monitoring.security_score import FULL, Observation, bursts, expected_failures, is_low, score
from wireroom_monitoring.settings import MonitoringSettings
from wireroom_monitoring.stats import rebuild_projection
from wireroom_protos.events.v1 import events_pb2 as events
from wireroom_protos.monitoring.v1 import monitoring_pb2 as pb

ALPHA = UUID("0190a000-0000-7000-8000-00000000000a")
BETA = UUID("0190a000-0000-7000-8000-00000000000b")
NOW = datetime(2026, 3, 8, 12, 30, tzinfo=UTC)
BROKEN = events.AuditRecorded(action="audit.verified", outcome="failure")


async def send(monitoring: Any, payload: Message, times: int = 1, *, tenant: UUID | None = ALPHA, at: datetime = NOW) -> None:
    for _ in range(times):
        await monitoring.deliver(monitoring.event(payload, tenant, time=at))


def failed(number: int = 0, reason: str = "wrong_password") -> events.AuthUserLoginFailed:
    return events.AuthUserLoginFailed(user_id=f"user {number}", ip=f"192.0.2.{number % 250}", reason=reason)


async def security(monitoring: Any, tenant: UUID | None, *roles: str, permission: str = "security:read") -> Any:
    with monitoring.acting(tenant, *roles, permissions=(permission,)):
        return await monitoring.methods.call("MetricsService/GetSecurity", pb.GetSecurityRequest())


async def test_nothing_seen_is_a_full_score(monitoring: Any) -> None:
    found = await security(monitoring, ALPHA)
    assert (found.score, found.threshold) == (100, 70)
    assert {part.points for part in found.parts} == {0}


async def test_what_was_seen_costs_points_in_its_tenant_and_in_the_installation(monitoring: Any) -> None:
    now = datetime.now(UTC)
    for number in range(25):
        await send(monitoring, failed(number, "wrong_password" if number % 5 else "disabled"), at=now)
    await send(monitoring, events.AuthUserLoginSucceeded(), 3, at=now)
    await send(monitoring, events.AuthRefreshReuseDetected(), 2, tenant=BETA, at=now)
    await send(monitoring, events.GatewayThreatDetected(kind="sql"), 4, tenant=BETA, at=now)
    await send(monitoring, events.GatewayIpBlocked(), 1, tenant=None, at=now)
    await send(monitoring, events.GatewayRatelimitExceeded(count=250), 1, tenant=None, at=now)
    await send(monitoring, BROKEN, 2, tenant=None, at=now)
    await send(monitoring, events.AuditRecorded(action="audit.verified", outcome="success"), tenant=None, at=now)

    alpha, beta = await security(monitoring, ALPHA), await security(monitoring, BETA)
    everything = await security(monitoring, ALPHA, "platform_admin")

    def costs(found: Any) -> dict[str, tuple[int, int]]:
        return {part.name: (part.points, part.count) for part in found.parts if part.points}

    logins = {"failed_logins": (10, 25), "many_accounts": (10, 25)}
    assert {name: costs(alpha)[name] for name in logins} == logins
    assert (alpha.logins_failed, alpha.logins_succeeded, alpha.threats) == (25, 3, 0)
    assert {entry.reason: entry.count for entry in alpha.failed_by_reason} == {"wrong_password": 20, "disabled": 5}
    assert (alpha.failed_accounts, alpha.failed_addresses, alpha.failures_expected) == (25, 25, 20)
    assert sum(hour.failed for hour in alpha.by_hour) == 25
    assert sum(hour.succeeded for hour in alpha.by_hour) == 3
    assert costs(beta) == {"refresh_reuse": (10, 2), "threats": (4, 4)}
    assert beta.score == 86
    assert costs(everything) == costs(alpha) | costs(beta) | {
        "addresses_blocked": (3, 1),
        "limits_exceeded": (2, 250),
        "audit_chain_broken": (40, 2),
    }
    assert everything.score == max(0, 100 - sum(points for points, _ in costs(everything).values()))
    assert everything.addresses_blocked == 1


async def test_the_score_needs_its_permission(monitoring: Any) -> None:
    with pytest.raises(WireroomError) as refused:
        await security(monitoring, ALPHA, permission="monitoring:read")
    assert refused.value.kind is ErrorKind.FORBIDDEN
    with pytest.raises(WireroomError) as refused:
        await security(monitoring, None)
    assert refused.value.kind is ErrorKind.FORBIDDEN


async def test_no_account_or_address_stands_in_the_projection(monitoring: Any) -> None:
    await send(monitoring, events.AuthUserLoginFailed(user_id="the-user", ip="198.51.100.77", reason="the user's own words"))
    with monitoring.as_owner() as owner:
        rows = str(owner.execute("SELECT t::text FROM monitoring.security_hours t").fetchall())
        rows += str(owner.execute("SELECT t::text, encode(digest, 'escape') FROM monitoring.security_subjects t").fetchall())
    assert "login_failed:other" in rows
    assert "address" in rows
    for told in ("the-user", "198.51.100.77", "own words"):
        assert told not in rows


async def test_a_repeated_event_counts_once_and_a_rebuild_gives_the_same(monitoring: Any) -> None:
    for number in range(30):
        sent = monitoring.event(failed(number % 7), (ALPHA, BETA, None)[number % 3], time=NOW - timedelta(hours=number))
        await asyncio.gather(*(monitoring.deliver(sent) for _ in range(3)))
    await send(monitoring, BROKEN)
    await send(monitoring, events.GatewayThreatDetected(kind="xss"), 3)

    def projection() -> list[list[tuple[Any, ...]]]:
        with monitoring.as_owner() as owner:
            return [
                owner.execute(
                    "SELECT tenant_id, hour, name, count FROM monitoring.security_hours"
                    " WHERE generation = (SELECT generation FROM monitoring.log_head) ORDER BY 1, 2, 3"
                ).fetchall(),
                owner.execute(
                    "SELECT tenant_id, hour, kind, digest FROM monitoring.security_subjects"
                    " WHERE generation = (SELECT generation FROM monitoring.log_head) ORDER BY 1, 2, 3, 4"
                ).fetchall(),
            ]

    before = projection()
    assert sum(row[3] for row in before[0]) == 34
    with monitoring.as_owner() as owner:
        owner.execute("DELETE FROM monitoring.security_hours")
        owner.execute("DELETE FROM monitoring.security_subjects")
    await rebuild_projection(monitoring.database, batch_size=7)
    assert projection() == before
    with monitoring.as_owner() as owner:
        assert owner.execute("SELECT DISTINCT generation FROM monitoring.security_hours").fetchall() == [(2,)]
    await send(monitoring, BROKEN)
    async with monitoring.database.tenant(ALPHA) as connection:
        assert (await read_security(connection, NOW)).seen.audit_chain_broken == 2


async def test_only_the_last_24_hours_count_and_the_week_before_says_what_is_usual(monitoring: Any) -> None:
    for day in range(1, 8):
        await send(monitoring, failed(), 10, at=NOW - timedelta(days=day))
    await send(monitoring, failed(), 5, at=NOW - timedelta(days=9))
    await send(monitoring, failed(), 25, at=NOW)
    await send(monitoring, events.GatewayThreatDetected(kind="xss"), 1, at=NOW - timedelta(hours=25))
    async with monitoring.database.tenant(ALPHA) as connection:
        found = await read_security(connection, NOW)
    assert (found.seen.logins_failed, found.seen.threats) == (25, 0)
    assert found.seen.failed_by_day_before == [10] * 7
    assert expected_failures(found.seen.failed_by_day_before) == 30
    assert dict(found.score.costs()) == {"login_burst": 10}


async def lows(monitoring: Any) -> list[tuple[UUID | None, int]]:
    async with monitoring.database.system() as connection:
        rows = await connection.execute(
            text("SELECT tenant_id, data FROM outbox WHERE type = 'monitoring.security_score.low' ORDER BY id")
        )
        return [(row.tenant_id, events.MonitoringSecurityScoreLow.FromString(row.data).score) for row in rows]


async def test_each_fall_is_told_once_over_all_replicas(monitoring: Any) -> None:
    clock = ManualClock(NOW)
    replicas = [SecurityAlarm(monitoring.database, clock, MonitoringSettings()) for _ in range(4)]

    async def look() -> None:
        await asyncio.gather(*(replica.run() for replica in replicas))

    await look()
    assert await lows(monitoring) == []
    await send(monitoring, BROKEN)
    for _ in range(3):
        await look()
    told = [(None, 60), (ALPHA, 60)]
    assert sorted(await lows(monitoring), key=str) == sorted(told, key=str)
    # Still low, for another reason.
    clock.advance(20 * 3600)
    await send(monitoring, events.AuthRefreshReuseDetected(), 4, at=clock.now())
    await look()
    assert len(await lows(monitoring)) == 2
    # The first reason has passed; the second alone does not raise the alarm, and 80 puts it back.
    clock.advance(5 * 3600)
    await look()
    assert len(await lows(monitoring)) == 2
    await send(monitoring, BROKEN, at=clock.now())
    await look()
    assert len(await lows(monitoring)) == 4
    assert {score for _, score in (await lows(monitoring))[2:]} == {40}


async def test_the_alarm_is_not_put_back_within_the_margin(monitoring: Any) -> None:
    clock = ManualClock(NOW)
    alarm = SecurityAlarm(monitoring.database, clock, MonitoringSettings())
    at = NOW - timedelta(hours=23)
    await send(monitoring, events.GatewayThreatDetected(kind="xss"), 11, at=at)
    await send(monitoring, events.AuthRefreshReuseDetected(), 4, at=NOW)
    await alarm.run()
    assert await lows(monitoring) == [(None, 69), (ALPHA, 69)]
    # 11 threats go, 8 come: 72, above the threshold and within the margin. Then 69 again: no new fall.
    clock.advance(3600)
    await send(monitoring, events.GatewayThreatDetected(kind="xss"), 8, at=clock.now())
    await alarm.run()
    await send(monitoring, events.GatewayThreatDetected(kind="xss"), 3, at=clock.now())
    await alarm.run()
    assert len(await lows(monitoring)) == 2


async def test_old_hours_leave_the_projection(monitoring: Any) -> None:
    await send(monitoring, failed(), at=datetime.now(UTC) - timedelta(days=36))
    await send(monitoring, failed(), at=datetime.now(UTC))
    await monitoring.run_periodic("monitoring.retention")
    with monitoring.as_owner() as owner:
        assert owner.execute("SELECT count(*) FROM monitoring.security_hours").fetchone() == (1,)
        assert owner.execute("SELECT count(*) FROM monitoring.security_subjects").fetchone() == (2,)


@given(
    st.builds(
        Observation,
        logins_failed=st.integers(0, 10**9),
        failed_by_day_before=st.lists(st.integers(0, 10**6), max_size=7),
        failed_by_hour=st.lists(st.integers(0, 10**6), max_size=24),
        failed_by_hour_before=st.lists(st.integers(0, 10**6), max_size=168),
        failed_accounts=st.integers(0, 10**6),
        refresh_reuse=st.integers(0, 10**6),
        addresses_blocked=st.integers(0, 10**6),
        threats=st.integers(0, 10**6),
        limits_exceeded=st.integers(0, 10**9),
        audit_chain_broken=st.integers(0, 10),
    )
)
def test_the_score_is_what_its_parts_leave(seen: Observation) -> None:
    found = score(seen)
    assert found.value == max(0, FULL - sum(found.costs().values()))
    assert all(part.points >= 0 for part in found.parts)
    assert (found.costs().get("audit_chain_broken") == 40) == (seen.audit_chain_broken > 0)


@pytest.mark.parametrize(
    ("failures", "usual", "points"),
    [(20, 0, 0), (21, 0, 10), (40, 0, 10), (41, 0, 20), (81, 0, 30), (10**6, 0, 30), (300, 100, 0), (301, 100, 10)],
)
def test_failed_logins_cost_by_doublings_of_what_is_usual(failures: int, usual: int, points: int) -> None:
    found = score(Observation(logins_failed=failures, failed_by_day_before=[usual] * 7))
    assert found.costs().get("failed_logins", 0) == points


@pytest.mark.parametrize(
    ("hours", "before", "found"),
    [([9], [0] * 168, 0), ([10], [0] * 168, 1), ([50, 12], [5, 40] * 84, 0), ([60], [10] * 168, 1), ([], [], 0), ([100], [], 1)],
)
def test_bursts_stand_out_against_the_week_before(hours: list[int], before: list[int], found: int) -> None:
    assert bursts(hours, before) == found


@given(st.lists(st.integers(0, 100), max_size=50), st.integers(1, 100), st.integers(0, 50))
def test_between_two_falls_the_score_was_well_above_the_threshold(scores: list[int], threshold: int, margin: int) -> None:
    low, recovered = False, True
    for value in scores:
        now_low = is_low(value, threshold=threshold, margin=margin, was_low=low)
        if now_low and not low:
            assert value < threshold
            assert recovered
            recovered = False
        if value >= min(FULL, threshold + margin):
            recovered = True
            assert not now_low
        low = now_low
