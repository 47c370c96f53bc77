"""What budgets hear: the terms of API keys from the auth service, and changes of budgets made on any replica."""

from __future__ import annotations

from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from wireroom_chat.adapters.budgets_sql import drop_key_terms, take_key_terms
from wireroom_chat.adapters.ledger import UnboundPayers
from wireroom_chat.domain.budgets import Period
from wireroom_common.bus import Envelope, Subscription, event_type
from wireroom_common.clock import Clock
from wireroom_common.db import Database
from wireroom_protos.events.v1 import events_pb2

CONSUMER = "chat.budgets"

_CREATED = event_type(events_pb2.AuthApiKeyCreated())
_CHANGED = event_type(events_pb2.AuthApiKeyChanged())
_REVOKED = event_type(events_pb2.AuthApiKeyRevoked())
_BUDGET_CHANGED = event_type(events_pb2.ChatBudgetChanged())


class BudgetEvents:
    """The consumer `chat.budgets`, and the broadcast that ends what is remembered."""

    def __init__(self, database: Database, unbound: UnboundPayers, clock: Clock) -> None:
        self._database = database
        self._unbound = unbound
        self._clock = clock

    def subscriptions(self) -> tuple[Subscription, ...]:
        """For the service's declaration."""
        return (
            Subscription(CONSUMER, work=self.take, database=self._database),
            Subscription("chat.budget_changes", broadcast=self.forget, types=frozenset({_BUDGET_CHANGED})),
        )

    async def take(self, connection: AsyncConnection, envelope: Envelope) -> None:
        """One event of an API key, on its transaction."""
        if envelope.tenant_id is None:
            msg = f"The event {envelope.id} ({envelope.type}) has no tenant."
            raise ValueError(msg)
        if envelope.type == _REVOKED:
            revoked = envelope.payload(events_pb2.AuthApiKeyRevoked)
            await drop_key_terms(connection, envelope.tenant_id, UUID(revoked.key_id))
            return
        if envelope.type == _CREATED:
            terms: events_pb2.AuthApiKeyCreated | events_pb2.AuthApiKeyChanged = envelope.payload(events_pb2.AuthApiKeyCreated)
        elif envelope.type == _CHANGED:
            terms = envelope.payload(events_pb2.AuthApiKeyChanged)
        else:
            return
        # Written before keys told their terms: they say nothing of budgets, which is not the same as none.
        if terms.version <= 0:
            return
        caps = {Period.DAY: terms.budget_day_micros, Period.MONTH: terms.budget_month_micros}
        await take_key_terms(connection, envelope.tenant_id, UUID(terms.key_id), caps, version=terms.version, clock=self._clock)

    async def forget(self, envelope: Envelope) -> None:
        """Budgets of a tenant have changed."""
        if envelope.tenant_id is not None:
            self._unbound.forget(envelope.tenant_id)
