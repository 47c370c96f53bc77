"""Erasure: what is gone, told by counts and hashes, and signed."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol
from uuid import UUID

# Of so many versions the receipt names each; of more, the digest of all.
NAMED_ITEMS = 1_000


class Signer(Protocol):
    """Signs receipts."""

    def sign(self, data: bytes) -> bytes:
        """An Ed25519 signature."""

    def public_key(self) -> bytes:
        """The raw public key that verifies it."""


@dataclass(frozen=True)
class Tombstone:
    """A document whose deletion has begun."""

    tenant_id: UUID
    document_id: UUID


@dataclass(frozen=True)
class OpenErasure:
    """An erasure that is not complete."""

    tenant_id: UUID
    id: UUID


@dataclass(frozen=True)
class Erased:
    """Everything that an erasure removed."""

    tenant_id: UUID
    id: UUID
    user_id: UUID | None
    requested_at: datetime
    counts: dict[str, int]
    items: Sequence[str]


@dataclass(frozen=True)
class Receipt:
    """What was signed, and by whom; empty while the erasure runs."""

    id: UUID
    requested_at: datetime
    completed_at: datetime | None
    content: str
    signature: str
    public_key: str

    def sha256(self) -> str:
        """By which events and the audit trail name it."""
        return hashlib.sha256(self.content.encode()).hexdigest()


def item_hash(document_id: UUID, version: int, sha256: str) -> str:
    """Names a version without telling anything of it: who has the file and its id can recompute it."""
    return hashlib.sha256(f"{document_id}:{version}:{sha256}".encode()).hexdigest()


def items_digest(items: Sequence[str]) -> str:
    """SHA-256 of the sorted hashes, one to a line."""
    return hashlib.sha256("".join(f"{item}\n" for item in sorted(items)).encode()).hexdigest()


def receipt_of(erased: Erased, completed_at: datetime, signer: Signer) -> Receipt:
    """The receipt: canonical JSON (sorted names, no spaces), signed as UTF-8."""
    content = json.dumps(
        {
            "completed_at": completed_at.astimezone(UTC).isoformat(timespec="seconds"),
            "counts": erased.counts,
            "erasure_id": str(erased.id),
            "items": sorted(erased.items) if len(erased.items) <= NAMED_ITEMS else [],
            "items_sha256": items_digest(erased.items),
            "requested_at": erased.requested_at.astimezone(UTC).isoformat(timespec="seconds"),
            "service": "rag",
            "subject": f"user:{erased.user_id}" if erased.user_id else "tenant",
            "tenant_id": str(erased.tenant_id),
        },
        sort_keys=True,
        separators=(",", ":"),
    )
    return Receipt(
        erased.id,
        erased.requested_at,
        completed_at,
        content,
        base64.b64encode(signer.sign(content.encode())).decode(),
        base64.b64encode(signer.public_key()).decode(),
    )
