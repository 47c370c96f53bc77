"""Budgets in PostgreSQL. Every change tells all replicas, which then forget who was without a budget."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from wireroom_chat.adapters import audit_trail
from wireroom_chat.adapters import ledger_statements as sql
from wireroom_chat.adapters.ledger import payer_values
from wireroom_chat.domain.budgets import ANYBODY, Budget, BudgetTerms, Period, Scope, Spending
from wireroom_common.clock import Clock
from wireroom_common.db import Database
from wireroom_common.errors import ErrorKind, WireroomError, not_found
from wireroom_common.ids import new_id
from wireroom_common.outbox import emit
from wireroom_protos.events.v1 import events_pb2

_COLUMNS = "id, scope, subject, period, cap, enabled, source, created_at, updated_at"
# Budgets of one tenant that an administrator may set.
_MOST = 10_000


class SqlBudgets:
    """What administrators set, and what API keys bring along."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def put(self, tenant_id: UUID, terms: BudgetTerms, *, actor: str) -> tuple[Budget, bool]:
        """Set the budget of this scope, subject and period; also whether it is new. What was spent keeps counting."""
        now = self._clock.now()
        async with self._database.tenant(tenant_id) as connection:
            count = await connection.execute(
                text("SELECT count(*) FROM budgets WHERE tenant_id = :tenant_id AND source = 'admin'"), {"tenant_id": tenant_id}
            )
            if count.scalar_one() >= _MOST:
                raise WireroomError(
                    ErrorKind.CONFLICT,
                    "budget_limit_reached",
                    f"There are {_MOST} budgets, which is the limit; delete one first.",
                )
            row = (
                await connection.execute(
                    text(
                        "INSERT INTO budgets AS b (tenant_id, id, scope, subject, period, cap, enabled, created_at, updated_at)"  # noqa: S608
                        " VALUES (:tenant_id, :id, :scope, :subject, :period, :cap, :enabled, :now, :now)"
                        " ON CONFLICT (tenant_id, scope, subject, period, source) DO UPDATE"
                        " SET cap = excluded.cap, enabled = excluded.enabled, updated_at = excluded.updated_at"
                        f" RETURNING {_COLUMNS}"
                    ),
                    {
                        "tenant_id": tenant_id,
                        "id": new_id(),
                        "scope": terms.scope.value,
                        "subject": terms.subject,
                        "period": terms.period.value,
                        "cap": terms.cap,
                        "enabled": terms.enabled,
                        "now": now,
                    },
                )
            ).one()
            # With another cap, thresholds and refusals are told anew.
            await connection.execute(
                text(
                    "UPDATE budget_periods SET notified = CASE WHEN spent * 100 >= CAST(:cap AS bigint) * 100 THEN 100"
                    " WHEN spent * 100 >= CAST(:cap AS bigint) * 80 THEN 80 ELSE 0 END, refused = false"
                    " WHERE tenant_id = :tenant_id AND budget_id = :id"
                ),
                {"tenant_id": tenant_id, "id": row.id, "cap": terms.cap},
            )
            await _changed(connection, tenant_id, row.id, actor)
            await audit_trail.record(
                connection,
                "budget.set",
                tenant_id=tenant_id,
                subject=str(row.id),
                actor=actor,
                scope=terms.scope.value,
                of=terms.subject,
                period=terms.period.value,
                cap_micros=str(terms.cap),
                enabled=str(terms.enabled).lower(),
            )
        return _budget(row), bool(row.created_at == row.updated_at)

    async def page(self, tenant_id: UUID, *, after: UUID | None, limit: int) -> list[Budget]:
        """Budgets in the order of their making, at most `limit`, after the given one; without those that API keys switched off."""
        async with self._database.tenant(tenant_id) as connection:
            rows = await connection.execute(
                text(
                    f"SELECT {_COLUMNS} FROM budgets WHERE tenant_id = :tenant_id AND (source = 'admin' OR enabled)"  # noqa: S608
                    " AND (CAST(:after AS uuid) IS NULL OR id > :after) ORDER BY id LIMIT :limit"
                ),
                {"tenant_id": tenant_id, "after": after, "limit": limit},
            )
            return [_budget(row) for row in rows]

    async def delete(self, tenant_id: UUID, budget_id: UUID, *, actor: str) -> None:
        """Take a budget away, with what was counted for it (the ledger stays). NOT_FOUND, or CONFLICT for that of an API key."""
        async with self._database.tenant(tenant_id) as connection:
            row = (
                await connection.execute(
                    text(
                        f"DELETE FROM budgets WHERE tenant_id = :tenant_id AND id = :id RETURNING {_COLUMNS}"  # noqa: S608
                    ),
                    {"tenant_id": tenant_id, "id": budget_id},
                )
            ).first()
            if row is None:
                raise not_found("budget")
            if row.source != "admin":
                raise WireroomError(
                    ErrorKind.CONFLICT, "budget_of_api_key", "This budget belongs to an API key: change the key to change it."
                )
            await _changed(connection, tenant_id, budget_id, actor)
            await audit_trail.record(
                connection,
                "budget.deleted",
                tenant_id=tenant_id,
                subject=str(budget_id),
                actor=actor,
                scope=row.scope,
                of=row.subject,
                period=row.period,
            )

    async def spending(self, tenant_id: UUID, user_id: UUID, key_id: UUID | None) -> list[Spending]:
        """The budgets that bind this payer now, and where they stand."""
        values = payer_values(tenant_id, user_id, key_id, self._clock.now())
        async with self._database.tenant(tenant_id) as connection:
            rows = (await connection.execute(sql.SPENDING, values)).all()
        return [Spending(_budget(row), row.payer, row.period_start, int(row.spent), int(row.reserved)) for row in rows]


async def take_key_terms(
    connection: AsyncConnection, tenant_id: UUID, key_id: UUID, caps: dict[Period, int], *, version: int, clock: Clock
) -> None:
    """On the transaction of an event: what an API key may spend by its own terms, 0 for no bound. Older versions change nothing."""
    changed = False
    for period, cap in caps.items():
        # A first version without a bound leaves no row: there is nothing older that it must hold off.
        if cap == 0 and version <= 1:
            continue
        result = await connection.execute(
            text(
                "INSERT INTO budgets AS b (tenant_id, id, scope, subject, period, cap, enabled, source, version, created_at, updated_at)"
                " VALUES (:tenant_id, :id, 'key', :key, :period, :cap, :enabled, 'auth', :version, :now, :now)"
                " ON CONFLICT (tenant_id, scope, subject, period, source) DO UPDATE SET cap = excluded.cap,"
                " enabled = excluded.enabled, version = excluded.version, updated_at = excluded.updated_at"
                " WHERE b.version < excluded.version"
            ),
            {
                "tenant_id": tenant_id,
                "id": new_id(),
                "key": str(key_id),
                "period": period.value,
                "cap": cap,
                "enabled": cap > 0,
                "version": version,
                "now": clock.now(),
            },
        )
        changed = changed or bool(result.rowcount)
    if changed:
        await _changed(connection, tenant_id, key_id, "")


async def drop_key_terms(connection: AsyncConnection, tenant_id: UUID, key_id: UUID) -> None:
    """On the transaction of an event: the API key is no more."""
    await connection.execute(
        text("DELETE FROM budgets WHERE tenant_id = :tenant_id AND scope = 'key' AND subject = :key AND source = 'auth'"),
        {"tenant_id": tenant_id, "key": str(key_id)},
    )


async def _changed(connection: AsyncConnection, tenant_id: UUID, subject: UUID, actor: str) -> None:
    event = events_pb2.ChatBudgetChanged(budget_id=str(subject))
    await emit(connection, event, tenant_id=tenant_id, subject=str(subject), actor=actor)


def _budget(row: Row[Any]) -> Budget:
    subject = row.subject if row.scope != Scope.TENANT.value else ANYBODY
    terms = BudgetTerms(Scope(row.scope), subject, Period(row.period), row.cap, row.enabled)
    return Budget(row.id, terms, row.source, row.created_at, row.updated_at)
