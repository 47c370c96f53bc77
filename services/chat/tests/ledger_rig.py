"""A ledger and a budget book on a real PostgreSQL, and what tests say of generations."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import text

from wireroom_chat.adapters.budgets_sql import SqlBudgets
from wireroom_chat.adapters.ledger import SqlLedger
from wireroom_chat.domain.budgets import BudgetTerms, Period, Scope
from wireroom_chat.ports.generations import Generation, Origin, Settlement, UsagePart
from wireroom_common.clock import ManualClock
from wireroom_common.db import Database
from wireroom_common.ids import new_id

TENANT = UUID("0198a000-0000-7000-8000-000000000001")
OTHER_TENANT = UUID("0198a000-0000-7000-8000-000000000002")
USER = UUID("0198a000-0000-7000-8000-0000000000aa")
KEY = UUID("0198a000-0000-7000-8000-0000000000cc")


class LedgerRig:
    def __init__(self, database: Database, start: datetime | None = None) -> None:
        self.database = database
        self.clock = ManualClock(start)
        self.ledger = SqlLedger(database, self.clock)
        self.budgets = SqlBudgets(database, self.clock)

    async def budget(
        self, cap: int, scope: Scope = Scope.TENANT, subject: str = "*", period: Period = Period.MONTH, tenant: UUID = TENANT
    ) -> UUID:
        budget, _ = await self.budgets.put(tenant, BudgetTerms(scope, subject, period, cap).checked(), actor="test")
        return budget.id

    def generation(self, *, tenant: UUID = TENANT, user: UUID = USER, key: UUID | None = None) -> Generation:
        made = new_id()
        return Generation(made, tenant, user, key, f"chatcmpl-{made.hex}", "gpt-x", self.clock.now(), Origin("session", "m1"))

    def settlement(self, *micros: int, status: str = "completed", **changes: Any) -> Settlement:
        parts = tuple(self.part(number, cost) for number, cost in enumerate(micros, 1))
        values: dict[str, Any] = {
            "status": status,
            "answer_mode": "generated" if status == "completed" else "",
            "error_code": "" if status == "completed" else "provider_unavailable",
            "parts": parts,
            "tokens_in": 10 * len(parts),
            "tokens_out": 5 * len(parts),
            "micros": sum(micros),
            "citations": 0,
            "cache": "",
            "first_token_milliseconds": 12,
            "milliseconds": 34,
            "finished_at": self.clock.now(),
        }
        return Settlement(**{**values, **changes})

    def part(self, number: int, micros: int, **changes: Any) -> UsagePart:
        values: dict[str, Any] = {
            "number": number,
            "provider": "alpha" if number == 1 else "beta",
            "model": "m",
            "key": "main",
            "tokens_in": 10,
            "tokens_out": 5,
            "reported": number == 1,
            "counted_out": 5,
            "micros": micros,
            "price_version": "2026-01",
            "status": "completed",
            "error_code": "",
            "first_token_milliseconds": 12,
        }
        return UsagePart(**{**values, **changes})

    async def rows(self, query: str, tenant: UUID = TENANT) -> list[Any]:
        async with self.database.tenant(tenant) as connection:
            return list((await connection.execute(text(query))).all())

    async def period(self, budget_id: UUID) -> tuple[int, int]:
        """Spent and reserved of a budget's only period."""
        found = await self.rows(f"SELECT spent, reserved FROM budget_periods WHERE budget_id = '{budget_id}'")  # noqa: S608
        [row] = found
        return row.spent, row.reserved

    async def events(self, event: str) -> list[bytes]:
        async with self.database.system() as connection:
            found = await connection.execute(text("SELECT data FROM outbox WHERE type = :type ORDER BY id"), {"type": event})
            return [bytes(row.data) for row in found]
