"""Erasure of a user or a tenant: who has to answer, what was erased, and the receipt."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Protocol
from uuid import UUID

from wireroom_common.errors import ErrorKind, WireroomError

ERASE_SELF = "privacy:erase:self"
ERASE_TENANT = "privacy:erase:tenant"
OWN_PART = "auth"
# Every service that keeps anything: an erasure is complete when all of them have answered.
PARTS = (OWN_PART, "chat", "monitoring", "news", "rag")
RECEIPT_VERSION = 1


class ErasureState(StrEnum):
    """`failed`: not complete by its deadline. It goes on, and ends as `completed`."""

    REQUESTED = "requested"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"


class Signer(Protocol):
    """Signs receipts."""

    def sign(self, data: bytes) -> bytes:
        """An Ed25519 signature."""

    def public_key(self) -> bytes:
        """The raw public key that verifies it."""


@dataclass(frozen=True)
class ErasureOrder:
    """What is asked for. `user_id` None: the tenant. `transfer_to`: who gets what the user shared; None: it is erased with the rest."""

    id: UUID
    tenant_id: UUID
    user_id: UUID | None
    requested_by: str
    requested_at: datetime
    deadline_at: datetime
    token_hash: bytes | None = None
    transfer_to: UUID | None = None


@dataclass(frozen=True)
class Part:
    """What one service erased; `done_at` None: it has not answered."""

    name: str
    done_at: datetime | None = None
    counts: Mapping[str, int] = field(default_factory=dict)
    receipt_sha256: str = ""
    signature: str = ""
    public_key: str = ""


@dataclass(frozen=True)
class Erasure:
    """An erasure and how far it is. `receipt`, `signature` and `public_key` are empty until it is completed."""

    id: UUID
    tenant_id: UUID
    user_id: UUID | None
    requested_by: str
    transfer_to: UUID | None
    state: ErasureState
    requested_at: datetime
    deadline_at: datetime
    completed_at: datetime | None
    parts: Sequence[Part]
    receipt: str = ""
    signature: str = ""
    public_key: str = ""


@dataclass(frozen=True)
class SignedReceipt:
    """`signature` and `public_key` in base64."""

    content: str
    signature: str
    public_key: str

    def sha256(self) -> str:
        """By which events and the audit trail name it."""
        return hashlib.sha256(self.content.encode()).hexdigest()


def receipt_of(erasure: Erasure, completed_at: datetime, signer: Signer) -> SignedReceipt:
    """The receipt: canonical JSON (sorted names, no spaces), signed as UTF-8. Every part must be done."""
    content = json.dumps(
        {
            "completed_at": _moment(completed_at),
            "erasure_id": str(erasure.id),
            "requested_at": _moment(erasure.requested_at),
            "requested_by": erasure.requested_by,
            "stores": [_store(part) for part in sorted(erasure.parts, key=lambda part: part.name)],
            "subject": f"user:{erasure.user_id}" if erasure.user_id else "tenant",
            "tenant_id": str(erasure.tenant_id),
            "transferred_to": str(erasure.transfer_to or ""),
            "version": RECEIPT_VERSION,
        },
        sort_keys=True,
        separators=(",", ":"),
    )
    return SignedReceipt(
        content,
        base64.b64encode(signer.sign(content.encode())).decode(),
        base64.b64encode(signer.public_key()).decode(),
    )


def tenant_name_wrong() -> WireroomError:
    """The name that was to confirm the erasure of a tenant is another's."""
    return WireroomError(
        ErrorKind.INVALID,
        "tenant_name_wrong",
        "To erase the tenant with everything in it, give its name as it is written.",
    )


def _store(part: Part) -> dict[str, object]:
    if part.done_at is None:
        msg = f"The part {part.name} is not done."
        raise ValueError(msg)
    return {
        "counts": dict(part.counts),
        "done_at": _moment(part.done_at),
        "public_key": part.public_key,
        "receipt_sha256": part.receipt_sha256,
        "signature": part.signature,
        "store": part.name,
    }


def _moment(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="seconds")
