"""Who looks: every read of the index states it, and there is no way around."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from uuid import UUID


class SourceKind(StrEnum):
    """Where a text comes from."""

    DOCUMENT = "document"
    ARTICLE = "article"


@dataclass(frozen=True)
class Scope:
    """What a caller may see: one tenant, and in it only `kinds`. No kinds means nothing."""

    tenant_id: UUID
    user_id: UUID
    kinds: frozenset[SourceKind]
    # Sees and changes the collections of everybody in the tenant.
    manages_collections: bool = False
