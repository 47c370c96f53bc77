"""Whether the database server takes the connections that a process may open."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import text

from wireroom_common.db.database import Database
from wireroom_common.errors import OperatorError
from wireroom_common.logging import get_logger

_log = get_logger("wireroom.db")
_SETTINGS = "WIREROOM_DATABASE_POOL_SIZE and WIREROOM_DATABASE_MAX_OVERFLOW"


@dataclass(frozen=True)
class Capacity:
    """Connections: what the server takes, and what this process keeps and may open under load.

    `usable` is what the server leaves to ordinary roles; `others` are those open now that are not this process's.
    """

    max_connections: int
    usable: int
    others: int
    kept: int
    most: int

    def check(self) -> None:
        """OperatorError if not even the kept connections fit; a line in the log if those under load may not."""
        if self.kept > self.usable:
            raise OperatorError(
                f"PostgreSQL takes {self.usable} connections (max_connections {self.max_connections}, less what is reserved), and this"
                f" process keeps {self.kept}: raise max_connections to {self.max_connections - self.usable + self.most + self.others} or"
                f" more, or lower {_SETTINGS}."
            )
        if self.most + self.others > self.usable:
            _log.warning(
                "database_connections_scarce",
                max_connections=self.max_connections,
                usable=self.usable,
                used_by_others=self.others,
                kept_by_this_process=self.kept,
                most_of_this_process=self.most,
                advice=f"Set max_connections of PostgreSQL to {self.max_connections - self.usable + self.most + self.others} or more,"
                f" or lower {_SETTINGS}: what gets no connection under load is answered 503.",
            )


async def capacity_of(databases: Sequence[Database]) -> Capacity:
    """Ask the server of `databases`, which are all that this process has. UNAVAILABLE if it does not answer."""
    async with databases[0].system() as connection:
        row = (
            await connection.execute(
                # The second kind of reserved connections came with version 16. A database may have a limit of its own, -1 for none.
                text(
                    "SELECT current_setting('max_connections')::int AS most,"
                    " current_setting('superuser_reserved_connections')::int"
                    " + coalesce(current_setting('reserved_connections', true)::int, 0) AS reserved,"
                    " (SELECT datconnlimit FROM pg_database WHERE datname = current_database()) AS of_database,"
                    " (SELECT sum(numbackends)::int FROM pg_stat_database) AS used"
                )
            )
        ).one()
    usable = row.most - row.reserved
    if row.of_database >= 0:
        usable = min(usable, row.of_database)
    own = sum(database.connections_open for database in databases)
    return Capacity(
        max_connections=row.most,
        usable=usable,
        others=max(0, row.used - own),
        kept=sum(database.connections_kept for database in databases),
        most=sum(database.connections_most for database in databases),
    )
