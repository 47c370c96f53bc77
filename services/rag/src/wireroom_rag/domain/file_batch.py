"""Documents that were put into a collection together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from uuid import UUID

from wireroom_rag.domain.collection import Member, Note

MAX_DOCUMENTS = 500


class BatchStatus(StrEnum):
    """Of a document in a batch, by its newest version; cancelled also when it left the collection, or was deleted, since."""

    PENDING = "pending"
    INDEXED = "indexed"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(frozen=True)
class NewEntry:
    """A document that a batch is to be made of."""

    document_id: UUID
    attributes: Mapping[str, Note]


@dataclass(frozen=True)
class FileBatch:
    """A batch; its documents counted by status."""

    id: UUID
    collection_id: UUID
    created_at: datetime
    cancelled: bool
    counts: Mapping[BatchStatus, int]


@dataclass(frozen=True)
class BatchEntry:
    """A document of a batch; no `member` when it is in the collection no more, or not to be read by who asks."""

    document_id: UUID
    status: BatchStatus
    member: Member | None
