"""Vectors in a store beside the database.

The database stays the truth about which chunks exist and who reads them: what a store says is looked up there before anybody sees it,
so that vectors without a row are harmless, and swept. Ids are drawn before the rows are written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_rag.domain.collection import Members
from wireroom_rag.domain.generation import Generation
from wireroom_rag.domain.passage import Vectors
from wireroom_rag.domain.scope import Scope, SourceKind

Ids = NDArray[np.int64]


class VectorStoreError(WireroomError):
    """UNAVAILABLE or DEADLINE: the store does not answer, or is not the one that has the vectors."""


def not_set_up() -> VectorStoreError:
    """The index has its vectors in a store that this installation knows nothing of."""
    return VectorStoreError(
        ErrorKind.UNAVAILABLE,
        "vector_store_not_set_up",
        "The vectors of this index are in a store that is not set up. Rebuild the index, or ask your administrator.",
        retry_after=30,
    )


@dataclass(frozen=True)
class NewVectors:
    """Vectors of chunks, of each chunk one entry in every sequence and one row of `vectors`."""

    ids: Sequence[int]
    document_ids: Sequence[UUID]
    kinds: Sequence[SourceKind]
    published: Sequence[datetime | None]
    vectors: Vectors


@dataclass(frozen=True)
class Sought:
    """What is near `vector` in the scope. `ids`: all chunks of a small scope, so that nothing else need be looked at."""

    scope: Scope
    generation: Generation
    vector: Vectors
    since: datetime | None = None
    members: Members | None = None
    ids: Ids | None = None


class VectorIndex(Protocol):
    """Called while no transaction is open; VectorStoreError when the store does not answer."""

    async def add(self, tenant_id: UUID, generation: Generation, new: NewVectors) -> None:
        """Keep these; the rows of the chunks may follow, or never come. Repeats are harmless."""

    async def remove(self, tenant_id: UUID, generation: Generation, ids: Sequence[int]) -> None:
        """Forget these; unknown ones are ignored."""

    async def drop(self, tenant_id: UUID, generation: Generation) -> None:
        """Forget all of a generation. Repeats are harmless."""

    async def nearest(self, sought: Sought, depth: int) -> Sequence[tuple[int, float]]:
        """Chunk id and cosine similarity, best first, ties by id; up to `depth`.

        They are looked up by the caller, who asks again with a larger `depth` if too few of them are visible. Fewer than `depth` mean
        that there are no more.
        """

    async def vectors(self, tenant_id: UUID, generation: Generation, ids: Sequence[int]) -> Mapping[int, Vectors]:
        """The vectors of chunks that the caller has found; unknown ones are left out."""
