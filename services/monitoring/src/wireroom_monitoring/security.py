"""The security projection: written with the log, read for the score; and the alarm when a score falls."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from wireroom_common.clock import Clock
from wireroom_common.db import Database
from wireroom_common.logging import get_logger
from wireroom_common.outbox import emit
from wireroom_monitoring import security_facts as facts
from wireroom_monitoring.scopes import INSTALLATION
from wireroom_monitoring.security_facts import SecurityFacts
from wireroom_monitoring.security_score import Observation, Score, is_low, score
from wireroom_monitoring.settings import MonitoringSettings
from wireroom_protos.events.v1 import events_pb2

HOUR = timedelta(hours=1)
DAY_HOURS = 24
BASELINE_DAYS = 7
_MOST_SCOPES = 1000
_log = get_logger(__name__)

_ADD = text(
    """
    WITH counted AS (
        INSERT INTO security_hours (tenant_id, generation, hour, name, count)
        SELECT added.tenant_id, CAST(:generation AS integer), date_trunc('hour', added.at), added.name, sum(added.count)::bigint
        FROM unnest(CAST(:tenants AS uuid[]), CAST(:times AS timestamptz[]), CAST(:names AS text[]), CAST(:counts AS bigint[]))
            AS added (tenant_id, at, name, count)
        GROUP BY 1, 2, 3, 4 ORDER BY 1, 3, 4
        ON CONFLICT (tenant_id, generation, hour, name) DO UPDATE SET count = security_hours.count + excluded.count
    )
    INSERT INTO security_subjects (tenant_id, generation, hour, kind, digest)
    SELECT added.tenant_id, CAST(:generation AS integer), date_trunc('hour', added.at), added.kind, added.digest
    FROM unnest(CAST(:subject_tenants AS uuid[]), CAST(:subject_times AS timestamptz[]), CAST(:kinds AS text[]),
        CAST(:digests AS bytea[])) AS added (tenant_id, at, kind, digest)
    ON CONFLICT DO NOTHING
    """
)


@dataclass(frozen=True)
class Addition:
    """What one event of the log adds."""

    scope: UUID
    time: datetime
    added: SecurityFacts


async def add(connection: AsyncConnection, generation: int, additions: Iterable[Addition]) -> None:
    """Add to one generation of the projection, in the caller's transaction."""
    counts = [(one.scope, one.time, name, count) for one in additions for name, count in one.added.counts.items()]
    subjects = [(one.scope, one.time, kind, digest) for one in additions for kind, digest in one.added.subjects.items()]
    if not counts:
        return
    await connection.execute(
        _ADD,
        {
            "generation": generation,
            "tenants": [row[0] for row in counts],
            "times": [row[1] for row in counts],
            "names": [row[2] for row in counts],
            "counts": [row[3] for row in counts],
            "subject_tenants": [row[0] for row in subjects],
            "subject_times": [row[1] for row in subjects],
            "kinds": [row[2] for row in subjects],
            "digests": [row[3] for row in subjects],
        },
    )


@dataclass(frozen=True)
class HourLogins:
    """Logins of one hour."""

    hour: datetime
    failed: int
    succeeded: int


@dataclass(frozen=True)
class Security:
    """A score with what it was made of."""

    score: Score
    seen: Observation
    by_hour: Sequence[HourLogins]


async def read_security(connection: AsyncConnection, now: datetime, scope: UUID | None = None) -> Security:
    """The last 24 hours, the running one included, of what the transaction may see: a tenant, or the installation with all tenants.

    `scope` narrows the system's transaction to one tenant.
    """
    newest = now.replace(minute=0, second=0, microsecond=0)
    first = newest - (DAY_HOURS - 1) * HOUR
    before = first - timedelta(days=BASELINE_DAYS)
    window = {"first": first, "before": before, "until": newest, "scope": scope, "failed": facts.LOGIN_FAILED}
    rows = (
        await connection.execute(
            text(
                "SELECT hour, name, sum(count)::bigint AS amount FROM security_hours"
                " WHERE generation = (SELECT generation FROM log_head) AND hour >= :before AND hour <= :until"
                " AND (CAST(:scope AS uuid) IS NULL OR tenant_id = :scope)"
                " AND (hour >= :first OR starts_with(name, :failed)) GROUP BY hour, name"
            ),
            window,
        )
    ).all()
    subjects = await connection.execute(
        text(
            "SELECT kind, count(DISTINCT digest) AS amount FROM security_subjects"
            " WHERE generation = (SELECT generation FROM log_head) AND hour >= :first AND hour <= :until"
            " AND (CAST(:scope AS uuid) IS NULL OR tenant_id = :scope) GROUP BY kind"
        ),
        window,
    )
    distinct = {row.kind: row.amount for row in subjects}
    totals: Counter[str] = Counter()
    failed: Counter[datetime] = Counter()
    succeeded: Counter[datetime] = Counter()
    for row in rows:
        if row.name.startswith(facts.LOGIN_FAILED):
            failed[row.hour] += row.amount
        elif row.name == facts.LOGIN_SUCCEEDED:
            succeeded[row.hour] += row.amount
        if row.hour >= first:
            totals[row.name] += row.amount
    hours = [first + number * HOUR for number in range(DAY_HOURS)]
    hours_before = [before + number * HOUR for number in range(BASELINE_DAYS * DAY_HOURS)]
    failed_before = [failed[hour] for hour in hours_before]
    seen = Observation(
        logins_failed=_sum(totals, facts.LOGIN_FAILED),
        logins_succeeded=totals[facts.LOGIN_SUCCEEDED],
        failed_by_day_before=[sum(failed_before[day * DAY_HOURS : (day + 1) * DAY_HOURS]) for day in range(BASELINE_DAYS)],
        failed_by_hour=[failed[hour] for hour in hours],
        failed_by_hour_before=failed_before,
        failed_accounts=distinct.get(facts.ACCOUNT, 0),
        failed_addresses=distinct.get(facts.ADDRESS, 0),
        refresh_reuse=totals[facts.REFRESH_REUSE],
        addresses_blocked=totals[facts.ADDRESS_BLOCKED],
        threats=_sum(totals, facts.THREAT),
        limits_exceeded=totals[facts.LIMIT_EXCEEDED],
        audit_chain_broken=totals[facts.AUDIT_CHAIN_BROKEN],
        failed_by_reason={
            name.removeprefix(facts.LOGIN_FAILED): count
            for name, count in sorted(totals.items())
            if name.startswith(facts.LOGIN_FAILED)
        },
    )
    by_hour = [HourLogins(hour, failed[hour], succeeded[hour]) for hour in hours if failed[hour] or succeeded[hour]]
    return Security(score(seen), seen, by_hour)


def _sum(totals: Counter[str], prefix: str) -> int:
    return sum(count for name, count in totals.items() if name.startswith(prefix))


class SecurityAlarm:
    """Tells of each fall of a score below the threshold, once over all replicas."""

    def __init__(self, database: Database, clock: Clock, settings: MonitoringSettings) -> None:
        self._database = database
        self._clock = clock
        self._threshold = settings.security_threshold
        self._margin = settings.security_margin

    async def run(self) -> None:
        """Look at the installation, at every tenant with something in the last 24 hours, and at those whose alarm stands."""
        now = self._clock.now()
        async with self._database.system() as connection:
            found = await connection.execute(
                text(
                    "SELECT DISTINCT tenant_id FROM security_hours WHERE hour > :since AND name <> :harmless"
                    " UNION SELECT scope FROM security_alarms WHERE low LIMIT :limit"
                ),
                {"since": now - timedelta(days=1), "harmless": facts.LOGIN_SUCCEEDED, "limit": _MOST_SCOPES},
            )
            scopes = {INSTALLATION, *found.scalars()}
        for scope in sorted(scopes):
            await self._look_at(scope, now)

    async def _look_at(self, scope: UUID, now: datetime) -> None:
        async with self._database.system() as connection:
            await connection.execute(
                text("INSERT INTO security_alarms (scope, changed_at) VALUES (:scope, :now) ON CONFLICT DO NOTHING"),
                {"scope": scope, "now": now},
            )
            was_low = await connection.scalar(
                text("SELECT low FROM security_alarms WHERE scope = :scope FOR UPDATE"), {"scope": scope}
            )
            security = await read_security(connection, now, None if scope == INSTALLATION else scope)
            value = security.score.value
            low = is_low(value, threshold=self._threshold, margin=self._margin, was_low=bool(was_low))
            await connection.execute(
                text(
                    "UPDATE security_alarms SET score = :score, low = :low,"
                    " changed_at = CASE WHEN low = :low THEN changed_at ELSE :now END WHERE scope = :scope"
                ),
                {"scope": scope, "score": value, "low": low, "now": now},
            )
            if low and not was_low:
                costs = security.score.costs()
                event = events_pb2.MonitoringSecurityScoreLow(score=value, threshold=self._threshold, parts=costs)
                tenant_id = None if scope == INSTALLATION else scope
                await emit(connection, event, tenant_id=tenant_id, subject=str(scope))
                _log.warning("security_score_low", scope=str(scope), score=value, threshold=self._threshold, parts=costs)
