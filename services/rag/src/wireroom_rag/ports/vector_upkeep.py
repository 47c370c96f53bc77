"""What has to follow the rows into a store of vectors: removals, and merging what was written in many small parts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol
from uuid import UUID

from wireroom_rag.domain.erasure import Tombstone
from wireroom_rag.domain.generation import Generation


@dataclass(frozen=True)
class VectorRemoval:
    """Vectors that must go. Not `due`: their chunks may be on their way into the tables just now."""

    tenant_id: UUID
    id: UUID
    generation: Generation
    chunk_ids: Sequence[int]
    due: bool


class VectorRemovals(Protocol):
    """What is to be removed; written with the change that makes it so."""

    async def due(self, limit: int) -> Sequence[VectorRemoval]:
        """Of all tenants, those that wait longest."""

    async def of_document(self, tombstone: Tombstone, limit: int) -> Sequence[VectorRemoval]:
        """Due ones first."""

    async def done(self, removals: Sequence[VectorRemoval]) -> None:
        """Nothing of these, which are one tenant's, is left in the store."""

    async def left_over(self) -> int:
        """Vectors that should have been removed for a minute and more; up to a bound."""


class VectorTables(Protocol):
    """Where the vectors of generations that begin go."""

    async def begin(self, tenant_id: UUID, dimension: int) -> str:
        """Make room for a generation; what it has to remember as its `store`. UNAVAILABLE when that cannot be done."""

    async def abandon(self, store: str) -> None:
        """The generation did not begin."""


class VectorTidying(Protocol):
    """The part of a store that looks after what it holds."""

    async def tidy(self, tenant_id: UUID, generation: Generation) -> None:
        """Leave the vectors of a generation such that they are found fast, and nothing of removed ones for long."""


class TidyingQueue(Protocol):
    """Whose turn it is, over all tenants and replicas."""

    async def claim(self, seconds: float) -> tuple[UUID, Generation] | None:
        """The generation in another store whose turn is longest due; nobody else gets it for so many seconds."""

    async def due_again(self, tenant_id: UUID, generation: Generation, seconds: float) -> None:
        """Its next turn comes in so many seconds."""
