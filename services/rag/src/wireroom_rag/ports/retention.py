"""What is kept no longer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol
from uuid import UUID

from wireroom_rag.domain.document import OldVersion


class Retention(Protocol):
    """Each call does a bounded part, over all tenants where none is named, and may be repeated."""

    async def old_versions(self, *, kept: int, days: int, limit: int) -> Sequence[OldVersion]:
        """Neither the newest nor the one that is served, beyond the `kept` newest or (0: never) older than `days`."""

    async def remove_version(self, old: OldVersion) -> bool:
        """The row, its file becoming one of the dropped; False, and nothing done, if the version came to be served meanwhile."""

    async def terms(self) -> Sequence[tuple[UUID, UUID]]:
        """Collections (tenant, id) with a term for their members."""

    async def end_members(self, tenant_id: UUID, collection_id: UUID, limit: int) -> int:
        """Take out members that are older than the term; delete those that nobody else could reach. How many were deleted."""

    async def expired_collections(self, limit: int) -> Sequence[tuple[UUID, UUID]]:
        """Collections (tenant, id) that nobody has searched or changed for as long as they say."""

    async def remove_collection(self, tenant_id: UUID, collection_id: UUID) -> None:
        """If it is still expired; its documents stay."""

    async def old_articles(self, days: int, limit: int) -> Sequence[tuple[UUID, UUID]]:
        """Articles (tenant, id) that came more than `days` ago."""

    async def remove_articles(self, tenant_id: UUID, ids: list[UUID]) -> None:
        """With everything that is known of them here."""
