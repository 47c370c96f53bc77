"""Erasures of users and tenants."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol
from uuid import UUID

from wireroom_auth.domain.erasure import Erasure, ErasureOrder
from wireroom_common.principal import Principal


@dataclass(frozen=True)
class OpenErasures:
    """How many wait for an answer, and how many of them are past their deadline."""

    open: int
    overdue: int


class Erasures(Protocol):
    """What is erased here is erased in the transaction that asks the other services."""

    async def erase_self(self, caller: Principal, order: ErasureOrder) -> Erasure:
        """The caller; FORBIDDEN without the permission, CONFLICT `last_admin`, `last_operator`."""

    async def erase_tenant(self, caller: Principal, order: ErasureOrder, name: str) -> Erasure:
        """The caller's tenant; INVALID for another name, CONFLICT `default_tenant`, `last_operator`."""

    async def get(self, tenant_id: UUID, erasure_id: UUID) -> Erasure | None:
        """One of the tenant."""

    async def opened(self, erasure_id: UUID, token_hash: bytes) -> Erasure | None:
        """One of whichever tenant, for who has its token."""

    async def page(self, tenant_id: UUID, *, before: UUID | None, limit: int) -> list[Erasure]:
        """Newest first, from after the erasure `before`."""

    async def ask_again(self, now: datetime, *, every: timedelta) -> int:
        """Ask for what is not answered `every` so often, and note what is past its deadline; how many were asked for."""

    async def open_counts(self, now: datetime) -> OpenErasures:
        """Of all tenants."""


class ErasureCounts(Protocol):
    """Where they are shown."""

    def set(self, counts: OpenErasures) -> None:
        """The newest counts."""
