"""Who looks: every read of the index states it, and there is no way around."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from uuid import UUID

from wireroom_rag.domain.access import readers_of


class SourceKind(StrEnum):
    """Where a text comes from."""

    DOCUMENT = "document"
    ARTICLE = "article"


@dataclass(frozen=True)
class Scope:
    """What a caller may see: one tenant, in it only `kinds`, and of the documents those that are readable by the user or its roles.

    No kinds means nothing.
    """

    tenant_id: UUID
    user_id: UUID
    kinds: frozenset[SourceKind]
    # Sees and changes the documents and collections of everybody in the tenant.
    manages_collections: bool = False
    roles: frozenset[str] = frozenset()

    @property
    def readers(self) -> tuple[str, ...]:
        """The tokens by which the caller may read."""
        return readers_of(self.user_id, self.roles, manages=self.manages_collections)
