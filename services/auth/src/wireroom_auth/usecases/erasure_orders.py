"""What an erasure is asked with: its id, its moment, and when it must be complete."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

from wireroom_auth.domain.erasure import ErasureOrder
from wireroom_common.clock import Clock
from wireroom_common.ids import new_id


class ErasureOrders:
    """`deadline`: by when every service must have answered."""

    def __init__(self, clock: Clock, *, deadline: timedelta) -> None:
        self._clock = clock
        self._deadline = deadline

    def of_user(
        self,
        tenant_id: UUID,
        user_id: UUID,
        *,
        requested_by: str,
        transfer_to: UUID | None = None,
        token_hash: bytes | None = None,
    ) -> ErasureOrder:
        """For a user."""
        now = self._clock.now()
        return ErasureOrder(
            id=new_id(),
            tenant_id=tenant_id,
            user_id=user_id,
            requested_by=requested_by,
            requested_at=now,
            deadline_at=now + self._deadline,
            token_hash=token_hash,
            transfer_to=transfer_to,
        )

    def of_tenant(self, tenant_id: UUID, *, requested_by: str, token_hash: bytes) -> ErasureOrder:
        """For a whole tenant."""
        now = self._clock.now()
        return ErasureOrder(
            id=new_id(),
            tenant_id=tenant_id,
            user_id=None,
            requested_by=requested_by,
            requested_at=now,
            deadline_at=now + self._deadline,
            token_hash=token_hash,
        )
