"""API keys."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Protocol
from uuid import UUID

from wireroom_auth.domain.api_keys import ApiKey, OwnedKey


class ApiKeys(Protocol):
    """API keys; all but `find` within one tenant."""

    async def add(self, key: ApiKey, secret: str, *, max_live: int) -> None:
        """Store a key by its digest and tell of it; CONFLICT `api_key_limit_reached` beyond `max_live` live keys of the owner."""

    async def page(self, tenant_id: UUID, owner_id: UUID, *, before: UUID | None, limit: int) -> list[ApiKey]:
        """The owner's keys that are not revoked, newest first, from after the key `before`."""

    async def revoke(self, tenant_id: UUID, owner_id: UUID, key_id: UUID, *, now: datetime) -> bool:
        """Revoke a key and tell of it; False if the owner has no such key."""

    async def find(self, secret: str) -> OwnedKey | None:
        """The key with this secret and its owner, in whichever tenant."""

    async def touch(self, key: ApiKey, *, now: datetime, at_most_every: timedelta) -> None:
        """Remember that the key was used, unless it was remembered within the interval."""
