"""Housekeeping that every replica may do at any time: each round does what is left to do."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import text

from wireroom_common.clock import Clock
from wireroom_common.db import Database
from wireroom_monitoring.gateway_reports import GatewayReports
from wireroom_monitoring.settings import MonitoringSettings

_BATCH = 5_000
_ROUNDS = 100


class Maintenance:
    """Partitions of the log ahead of time; what is older than its retention."""

    def __init__(self, database: Database, clock: Clock, reports: GatewayReports, settings: MonitoringSettings) -> None:
        self._database = database
        self._clock = clock
        self._reports = reports
        self._months_ahead = settings.partition_months_ahead
        self._routes_kept = timedelta(days=settings.route_hours_kept_days)
        self._security_kept = timedelta(days=settings.security_days)

    async def retain(self) -> None:
        """Sum up old request counts and remove old security counts, in bounded batches."""
        await self._reports.fold(self._routes_kept)
        before = self._clock.now() - self._security_kept
        for table in ("security_hours", "security_subjects"):
            for _ in range(_ROUNDS):
                async with self._database.system() as connection:
                    removed = await connection.execute(
                        text(
                            f"DELETE FROM {table} WHERE ctid = ANY(ARRAY("  # noqa: S608  literals
                            f"SELECT ctid FROM {table} WHERE hour < :before LIMIT :limit))"
                        ),
                        {"before": before, "limit": _BATCH},
                    )
                if removed.rowcount < _BATCH:
                    break

    async def make_partitions(self) -> None:
        """Make the missing partitions of this month and the months ahead.

        The tables' owner made the function that does it, so the service needs no right to create tables.
        """
        async with self._database.system() as connection:
            await connection.execute(text("SELECT ensure_event_partitions(:months)"), {"months": self._months_ahead})
