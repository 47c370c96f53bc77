"""The audit trail, for reading."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol
from uuid import UUID

from wireroom_auth.domain.audit import AuditFilter, AuditRecord, Head, Verdict


class AuditTrail(Protocol):
    """The chains. `chain` is a tenant's id, or the nil UUID of the installation."""

    async def page(self, chain: UUID, after: int, chosen: AuditFilter, *, limit: int) -> Sequence[AuditRecord]:
        """Records after the sequence `after` that fit the filter, oldest first."""

    async def head(self, chain: UUID) -> tuple[Head, AuditRecord | None]:
        """The head, and the first record beyond it (there must be none), both of one moment."""

    async def claim_unverified(self, *, before: datetime, now: datetime) -> UUID | None:
        """A chain that nobody has taken up for verification since `before`; no other replica gets it then."""

    async def record_verification(self, chain: UUID, verdict: Verdict, *, actor: str) -> None:
        """Write the verification itself down as a fact of the chain."""

    async def record_export(self, tenant_id: UUID, user_id: UUID) -> None:
        """Write down that a user takes their data along."""
