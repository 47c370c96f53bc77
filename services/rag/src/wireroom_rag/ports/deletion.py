"""Deletion, erasure and retention: the steps that can be repeated until nothing is left."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Protocol
from uuid import UUID

from wireroom_rag.domain.erasure import OpenErasure, Receipt, Signer, Tombstone
from wireroom_rag.domain.scope import Scope


class Tombstones(Protocol):
    """Documents on their way out."""

    async def bury(self, scope: Scope, document_id: UUID, *, may_delete_all: bool) -> Tombstone:
        """Nobody finds the document from now on. NOT_FOUND for what the caller cannot read, FORBIDDEN for another's."""

    async def buried(self, limit: int, *, older_than: timedelta = timedelta(0)) -> Sequence[Tombstone]:
        """Documents of all tenants whose deletion is not complete, oldest first."""

    async def remove_index(self, tombstone: Tombstone) -> None:
        """Vectors, passages and postings."""

    async def blobs(self, tombstone: Tombstone) -> Sequence[str]:
        """The keys of its files."""

    async def remove(self, tombstone: Tombstone) -> None:
        """The row and everything that hangs on it."""


class Erasures(Protocol):
    """Erasures of users and tenants."""

    async def finished(self, limit: int) -> Sequence[OpenErasure]:
        """Erasures of all tenants of which nothing is left but the receipt."""

    async def complete(self, erasure: OpenErasure, signer: Signer) -> Receipt | None:
        """Write the receipt and tell of it, once; None when that was done, or something is left after all."""


class OrphanCount(Protocol):
    """Where left-overs are counted."""

    def left(self, kind: str, count: int) -> None:
        """So many of this kind (`document`, `file`, `vector`) are left over now."""
