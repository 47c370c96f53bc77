"""API keys."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Protocol
from uuid import UUID

from wireroom_auth.domain.api_keys import ApiKey, KeySecrets, OwnedKey


class ApiKeys(Protocol):
    """API keys; all but `find` and `find_by_id` within one tenant."""

    async def add(self, key: ApiKey, secrets: KeySecrets, *, max_live: int) -> None:
        """Store a key by its digest and tell of it; CONFLICT `api_key_limit_reached` beyond `max_live` live keys of the owner."""

    async def page(self, tenant_id: UUID, owner_id: UUID, *, before: UUID | None, limit: int) -> list[ApiKey]:
        """The owner's keys that are not revoked, newest first, from after the key `before`."""

    async def get(self, tenant_id: UUID, owner_id: UUID, key_id: UUID) -> ApiKey | None:
        """The owner's key with this id that is not revoked."""

    async def update(self, tenant_id: UUID, owner_id: UUID, key_id: UUID, change: Callable[[ApiKey], ApiKey]) -> ApiKey | None:
        """Store what `change` makes of the key's name, permissions, limits and budgets, and tell of it; None if there is no such key."""

    async def rotate(
        self,
        tenant_id: UUID,
        owner_id: UUID,
        key_id: UUID,
        secrets: KeySecrets,
        *,
        prefix: str,
        until: datetime | None,
        now: datetime,
    ) -> ApiKey | None:
        """Give the key new secrets and tell of it. The present ones stay valid until `until`, or end now; older ones end.

        None if the owner has no such key, or it has expired.
        """

    async def revoke(self, tenant_id: UUID, owner_id: UUID, key_id: UUID, *, now: datetime) -> bool:
        """Revoke a key and tell of it; False if the owner has no such key."""

    async def find(self, secret: str, *, now: datetime) -> OwnedKey | None:
        """The key with this secret, or with this secret until its overlap ends, and its owner, in whichever tenant."""

    async def find_by_id(self, key_id: UUID, *, now: datetime) -> OwnedKey | None:
        """The key with this id and its owner, in whichever tenant."""

    async def touch(self, key: ApiKey, *, now: datetime, at_most_every: timedelta) -> None:
        """Remember that the key was used, unless it was remembered within the interval."""

    async def record_token(self, key: ApiKey, *, outcome: str, reason: str = "") -> None:
        """Put into the audit trail that a token was asked for with the key: "success" or "denied"."""
