"""Processing as its documents' owners see and steer it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol
from uuid import UUID

from wireroom_rag.domain.document import Chunk, State
from wireroom_rag.domain.scope import Scope

# Tenant and document.
DocumentKey = tuple[UUID, UUID]


@dataclass(frozen=True)
class Progress:
    """How far the newest version of a document is, and who reads it: whoever follows it looks again when any of it has changed."""

    version: int
    state: State
    pages: int
    chunks: int
    updated_at: datetime
    readers: tuple[str, ...]
    deleted: bool


class Steering(Protocol):
    """Changes of state that people ask for.

    NOT_FOUND for what they cannot see, FORBIDDEN for documents of others unless `may_change_all`.
    """

    async def retry(self, scope: Scope, document_id: UUID, *, may_change_all: bool) -> None:
        """The newest version is processed from the beginning; CONFLICT unless it failed or was rejected."""

    async def cancel(self, scope: Scope, document_id: UUID, *, may_change_all: bool) -> None:
        """Processing of the newest version ends; CONFLICT when it has ended."""


class ProgressReader(Protocol):
    """Progress over all tenants; reads nothing else."""

    async def progress(self, keys: Collection[DocumentKey]) -> Mapping[DocumentKey, Progress]:
        """Of those documents that are there."""


class ChunkReader(Protocol):
    """The passages of a document that are searched."""

    async def chunks(self, scope: Scope, document_id: UUID, *, limit: int, behind: int) -> tuple[int, Sequence[Chunk]] | None:
        """The version that is searched (0 for none) and at most `limit` of its chunks that start behind that offset; None out of scope."""
