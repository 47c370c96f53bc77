"""Files that tools made."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Protocol
from uuid import UUID


@dataclass(frozen=True)
class Artefact:
    """A file that a tool made for its user."""

    id: UUID
    name: str
    media_type: str
    data: bytes
    created_at: datetime
    expires_at: datetime


class ArtefactStore(Protocol):
    """Keeps artefacts until they expire; only their owner reaches them."""

    async def keep(self, tenant_id: UUID, user_id: UUID, name: str, media_type: str, data: bytes) -> Artefact:
        """Store it; RATE_LIMITED `artefacts_exhausted` when the user has too many that have not expired."""

    async def get(self, tenant_id: UUID, user_id: UUID, artefact_id: UUID) -> Artefact:
        """NOT_FOUND for everybody but its owner, and after its time."""
