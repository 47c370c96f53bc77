"""API keys."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from wireroom_auth.domain.identity import User


@dataclass(frozen=True)
class ApiKey:
    """A key without its secret. Empty `permissions` stand for all that the owner has at the time of use."""

    id: UUID
    tenant_id: UUID
    owner_id: UUID
    name: str
    prefix: str
    permissions: tuple[str, ...]
    created_at: datetime
    expires_at: datetime | None = None
    last_used_at: datetime | None = None
    revoked_at: datetime | None = None

    def is_live(self, now: datetime) -> bool:
        """Whether the key may be used, as far as it depends on the key."""
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)


@dataclass(frozen=True)
class OwnedKey:
    """A key and its owner."""

    key: ApiKey
    owner: User
