"""Stored responses."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Protocol
from uuid import UUID

from wireroom_chat.domain.source_terms import ANY, SourceTerms


@dataclass(frozen=True)
class Owner:
    """Whose it is; nobody else reaches it."""

    tenant_id: UUID
    user_id: UUID


@dataclass(frozen=True)
class StoredResponse:
    """A response of the Responses API, and the items it was made from; both as JSON."""

    id: UUID
    previous_id: UUID | None
    created_at: datetime
    items: bytes
    response: bytes
    # Of the sources that it and those before it may come from.
    terms: SourceTerms = ANY


class ResponseStore(Protocol):
    """Keeps responses until they are deleted or expire."""

    async def add(self, owner: Owner, response: StoredResponse, *, final: bool = True) -> None:
        """Store it; one that is not `final` never takes the place of another, a final one does: two processes may have had it in hand."""

    async def get(self, owner: Owner, response_id: UUID) -> StoredResponse | None:
        """None if there is none, or it is somebody else's."""

    async def delete(self, owner: Owner, response_id: UUID) -> bool:
        """False if there was none."""

    async def conversation(self, owner: Owner, response_id: UUID) -> list[StoredResponse]:
        """It and those before it, oldest first; the oldest still names a `previous_id` when that one is gone or there are too many."""
