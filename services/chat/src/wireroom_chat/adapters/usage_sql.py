"""What was used, read from the ledger: sums from the daily rollup, single calls from the partitions of their month."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import Row, text
from sqlalchemy.engine import RowMapping

from wireroom_chat.adapters.ledger import NO_KEY
from wireroom_common.db import Database

# How a group is written; each is unique and sorts in the order of the pages.
GROUPS = {
    "day": "to_char(day, 'YYYY-MM-DD')",
    "model": "provider || '/' || model",
    "user": "CAST(user_id AS text)",
    "key": f"CASE WHEN key_id = '{NO_KEY}' THEN '' ELSE CAST(key_id AS text) END",
    "provider": "provider",
}
_SUMS = (
    "COALESCE(sum(requests), 0) AS requests, COALESCE(sum(failed), 0) AS failed, COALESCE(sum(attempts), 0) AS attempts,"
    " COALESCE(sum(tokens_in), 0) AS tokens_in, COALESCE(sum(tokens_out), 0) AS tokens_out, COALESCE(sum(micros), 0) AS micros"
)
_WHERE = "tenant_id = :tenant_id AND day BETWEEN :first AND :last AND (CAST(:user_id AS uuid) IS NULL OR user_id = CAST(:user_id AS uuid))"
_BATCH = 1000


@dataclass(frozen=True)
class UsageQuery:
    """Days are inclusive, UTC. `user_id` None: the whole tenant."""

    tenant_id: UUID
    first: date
    last: date
    user_id: UUID | None

    def values(self) -> dict[str, Any]:
        """As statement parameters."""
        return {"tenant_id": self.tenant_id, "first": self.first, "last": self.last, "user_id": self.user_id}


class SqlUsage:
    """Reads only. Each page is a transaction of its own."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def page(self, query: UsageQuery, group: str, *, after: str | None, limit: int) -> list[Row[Any]]:
        """Sums per group, in the order of the groups' names."""
        expression = GROUPS[group]
        async with self._database.tenant(query.tenant_id) as connection:
            rows = await connection.execute(
                text(
                    f"SELECT {expression} AS name, {_SUMS} FROM usage_daily"  # noqa: S608 - constants
                    f' WHERE {_WHERE} AND (CAST(:after AS text) IS NULL OR ({expression}) COLLATE "C" > :after)'
                    f' GROUP BY 1 ORDER BY ({expression}) COLLATE "C" LIMIT :limit'
                ),
                {**query.values(), "after": after, "limit": limit},
            )
            return list(rows.all())

    async def total(self, query: UsageQuery) -> Row[Any]:
        """Sums over everything."""
        async with self._database.tenant(query.tenant_id) as connection:
            return (
                await connection.execute(text(f"SELECT '' AS name, {_SUMS} FROM usage_daily WHERE {_WHERE}"), query.values())  # noqa: S608 - constants
            ).one()

    async def groups(self, query: UsageQuery, group: str) -> AsyncIterator[list[Row[Any]]]:
        """All groups, in pages."""
        after: str | None = None
        while rows := await self.page(query, group, after=after, limit=_BATCH):
            yield rows
            after = rows[-1].name

    async def calls(self, query: UsageQuery) -> AsyncIterator[list[Row[Any]]]:
        """All calls of providers, oldest first, in pages."""
        begin = datetime.combine(query.first, datetime.min.time(), UTC)
        end = datetime.combine(query.last, datetime.min.time(), UTC) + timedelta(days=1)
        last: tuple[datetime, UUID, int] = (begin, UUID(int=0), -1)
        while True:
            async with self._database.tenant(query.tenant_id) as connection:
                rows = (
                    await connection.execute(
                        text(
                            "SELECT at, generation_id, number, user_id, key_id, provider, model, provider_key, tokens_in, tokens_out,"
                            " reported, counted_out, micros, price_version, status, error_code, first_token_ms FROM usage"
                            " WHERE tenant_id = :tenant_id AND at >= :begin AND at < :end"
                            " AND (at, generation_id, number) > (:begin, :generation, :number)"
                            " AND (CAST(:user_id AS uuid) IS NULL OR user_id = CAST(:user_id AS uuid))"
                            " ORDER BY at, generation_id, number LIMIT :limit"
                        ),
                        {
                            "tenant_id": query.tenant_id,
                            "user_id": query.user_id,
                            "begin": last[0],
                            "generation": last[1],
                            "number": last[2],
                            "end": end,
                            "limit": _BATCH,
                        },
                    )
                ).all()
            if not rows:
                return
            yield list(rows)
            last = (rows[-1].at, rows[-1].generation_id, rows[-1].number)

    async def generation(self, tenant_id: UUID, generation_id: UUID) -> tuple[RowMapping, list[RowMapping]] | None:
        """A generation and its calls of providers."""
        async with self._database.tenant(tenant_id) as connection:
            found = await connection.execute(
                text("SELECT * FROM generations WHERE tenant_id = :tenant_id AND id = :id"),
                {"tenant_id": tenant_id, "id": generation_id},
            )
            row = found.mappings().first()
            if row is None:
                return None
            calls = await connection.execute(
                text("SELECT * FROM usage WHERE tenant_id = :tenant_id AND at = :at AND generation_id = :id ORDER BY number"),
                {"tenant_id": tenant_id, "at": row["started_at"], "id": generation_id},
            )
            return row, list(calls.mappings())
