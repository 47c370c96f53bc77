"""Tenants."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from wireroom_auth.domain.identity import normalise_name
from wireroom_common.errors import invalid


@dataclass(frozen=True)
class Tenant:
    """A group of users who share data that nobody else sees."""

    id: UUID
    name: str
    created_at: datetime
    disabled_at: datetime | None = None


@dataclass(frozen=True)
class TenantChange:
    """What to change; None leaves it as it is."""

    name: str | None = None
    disabled: bool | None = None


def tenant_name(text: str) -> str:
    """The stored form of a name; INVALID if there is nothing in it."""
    name = normalise_name(text)
    if not name:
        raise invalid("name_missing", "Give the tenant a name.", field="name")
    return name
