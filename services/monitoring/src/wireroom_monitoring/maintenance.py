"""Housekeeping that every replica may do at any time: each round does what is left to do."""

from __future__ import annotations

from sqlalchemy import text

from wireroom_common.db import Database
from wireroom_monitoring.settings import MonitoringSettings


class Maintenance:
    """Partitions of the log ahead of time."""

    def __init__(self, database: Database, settings: MonitoringSettings) -> None:
        self._database = database
        self._months_ahead = settings.partition_months_ahead

    async def make_partitions(self) -> None:
        """Make the missing partitions of this month and the months ahead.

        The tables' owner made the function that does it, so the service needs no right to create tables.
        """
        async with self._database.system() as connection:
            await connection.execute(text("SELECT ensure_event_partitions(:months)"), {"months": self._months_ahead})
