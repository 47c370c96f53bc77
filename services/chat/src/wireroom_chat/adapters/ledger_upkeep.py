"""Housekeeping of the ledger that every replica may do at any time: each round does what is left to do."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from sqlalchemy import text

from wireroom_common.clock import Clock
from wireroom_common.db import Database

_MONTHS_AHEAD = 2
_BATCH = 5_000
_ROUNDS = 100


class LedgerUpkeep:
    """Partitions ahead of time; what is older than its retention goes, whole months of the logs at once.

    `months_kept`: whole months of generations and calls before the running one. `days_kept`: days of daily sums; 0 keeps them.
    """

    def __init__(self, database: Database, clock: Clock, *, months_kept: int, days_kept: int) -> None:
        self._database = database
        self._clock = clock
        self._months_kept = months_kept
        self._days_kept = days_kept

    async def run(self) -> None:
        """One round. The tables' owner made the functions that make and drop partitions: the service may not."""
        now = self._clock.now()
        async with self._database.system() as connection:
            await connection.execute(text("SELECT ensure_partitions(:at, :months)"), {"at": now, "months": _MONTHS_AHEAD})
        for log in ("generations", "usage"):
            async with self._database.system() as connection:
                await connection.execute(
                    text("SELECT drop_partitions(:log, :at, :months)"), {"log": log, "at": now, "months": self._months_kept}
                )
        if self._days_kept:
            await self._purge(now)

    async def _purge(self, now: datetime) -> None:
        before = now.astimezone(UTC).date() - timedelta(days=self._days_kept)
        # 1970-01-01 stands for budgets without an end.
        for table, condition in (
            ("usage_daily", "day < :before"),
            ("budget_periods", "period_start > DATE '1970-01-01' AND period_start < :before AND reserved = 0"),
        ):
            for _ in range(_ROUNDS):
                async with self._database.system() as connection:
                    removed = await connection.execute(
                        text(
                            f"DELETE FROM {table} WHERE ctid = ANY(ARRAY("  # noqa: S608 - constants
                            f"SELECT ctid FROM {table} WHERE {condition} LIMIT :limit))"
                        ),
                        {"before": before, "limit": _BATCH},
                    )
                if removed.rowcount < _BATCH:
                    break
