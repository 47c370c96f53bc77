"""The parts of budgets and usage, wired; `app.py` puts them into the service."""

from __future__ import annotations

from datetime import timedelta

import grpc.aio

from wireroom_chat.adapters.budgets_sql import SqlBudgets
from wireroom_chat.adapters.ledger import SqlLedger
from wireroom_chat.adapters.ledger_upkeep import LedgerUpkeep
from wireroom_chat.adapters.usage_sql import SqlUsage
from wireroom_chat.domain.pricing import Pricing
from wireroom_chat.domain.providers import Price
from wireroom_chat.settings import ChatSettings
from wireroom_chat.transport.budget_events import BudgetEvents
from wireroom_chat.transport.budgets import BudgetServicer
from wireroom_common.clock import Clock
from wireroom_common.db import Database
from wireroom_common.runtime.service import Periodic
from wireroom_protos.chat.v1 import budgets_pb2_grpc


class BudgetWiring:
    """`ledger` and `pricing` for the generations; `rpc`, `subscriptions` and `periodic` for the declaration."""

    def __init__(self, settings: ChatSettings, database: Database, clock: Clock) -> None:
        self.ledger = SqlLedger(database, clock)
        dear = settings.default_price_input_micros, settings.default_price_output_micros
        self.pricing = Pricing(Price(*dear, "default") if all(dear) else None)
        self._servicer = BudgetServicer(SqlBudgets(database, clock), SqlUsage(database), clock)
        self.subscriptions = BudgetEvents(database, self.ledger.unbound, clock).subscriptions()
        upkeep = LedgerUpkeep(
            database, clock, months_kept=settings.usage_retention_months, days_kept=settings.usage_sums_retention_days
        )

        async def release() -> None:
            await self.ledger.release_orphans(timedelta(seconds=settings.max_generation))

        self.periodic = (
            Periodic("release-reservations", settings.sweep_interval, release),
            Periodic("ledger-upkeep", settings.ledger_upkeep_interval, upkeep.run),
        )

    def rpc(self, server: grpc.aio.Server) -> None:
        """For the service's declaration."""
        budgets_pb2_grpc.add_BudgetServiceServicer_to_server(self._servicer, server)
