"""Collections and their members, always within what the caller's scope shows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol
from uuid import UUID

from wireroom_rag.domain.collection import Collection, CollectionChange, IdPage, Member, NewCollection, Note
from wireroom_rag.domain.document import State
from wireroom_rag.domain.scope import Scope


class CollectionStore(Protocol):
    """What the caller does not see is NOT_FOUND; what the caller sees but may not change, FORBIDDEN."""

    async def create(self, scope: Scope, new: NewCollection, document_ids: Sequence[UUID]) -> Collection:
        """A collection of the caller, with its first members; NOT_FOUND, and nothing made, when one of them is not there."""

    async def get(self, scope: Scope, collection_id: UUID) -> Collection:
        """The collection."""

    async def list(self, scope: Scope, page: IdPage) -> tuple[Sequence[Collection], bool]:
        """A page of them, and whether there are more in its direction."""

    async def update(self, scope: Scope, collection_id: UUID, change: CollectionChange) -> Collection:
        """The changed collection."""

    async def delete(self, scope: Scope, collection_id: UUID) -> None:
        """Its documents stay."""

    async def resolve(self, scope: Scope, names: Sequence[str]) -> tuple[UUID, ...]:
        """The collections with these ids or names; one's own goes before another's. CONFLICT for a name that several have."""


class MemberStore(Protocol):
    """The documents of collections; errors as those of `CollectionStore`."""

    async def add(self, scope: Scope, collection_id: UUID, document_id: UUID, attributes: dict[str, Note]) -> Member:
        """The member, new or with its attributes replaced."""

    async def remove(self, scope: Scope, collection_id: UUID, document_id: UUID) -> None:
        """The document stays."""

    async def get(self, scope: Scope, collection_id: UUID, document_id: UUID) -> Member:
        """The member."""

    async def list(
        self, scope: Scope, collection_id: UUID, page: IdPage, *, states: Sequence[State], document_ids: Sequence[UUID]
    ) -> tuple[Sequence[Member], bool]:
        """A page by document id, of these states and documents (empty: of all), and whether there are more."""
