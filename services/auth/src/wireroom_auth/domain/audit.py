"""The audit trail: one chain of keyed hashes per tenant, and how it is checked.

A record's hash is HMAC-SHA256, under a key that the database holds only encrypted, over its canonical encoding: the label
`wireroom/audit/v1` and then, each preceded by its length in bytes (4, big-endian), tenant (16), sequence (8, big-endian), id (16),
microseconds since 1970 UTC (8, big-endian, signed), actor, action, subject, outcome, client address, request id and details (UTF-8, as
stored), and the hash of the record before it (32; zeros before the first). Whoever can write to the database but does not hold the
master secret cannot make a hash that fits.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from uuid import UUID

# The chain of what belongs to no tenant; no tenant has this id.
INSTALLATION = UUID(int=0)
GENESIS = bytes(32)
KEY_BYTES = 32
_LABEL = b"wireroom/audit/v1"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class AuditFact:
    """Who did what to what, when, from where, with which outcome. `details` is a JSON object as text."""

    id: UUID
    time: datetime
    actor: str
    action: str
    subject: str
    outcome: str
    client_ip: str
    request_id: str
    details: str


@dataclass(frozen=True)
class AuditRecord:
    """A fact in its place in the chain; sequences begin at 1 and have no gaps."""

    sequence: int
    fact: AuditFact
    previous_hash: bytes
    hash: bytes


@dataclass(frozen=True)
class Head:
    """The newest record's place and hash, kept apart from the records."""

    sequence: int
    hash: bytes


EMPTY = Head(0, GENESIS)


@dataclass(frozen=True)
class AuditFilter:
    """Which records to show; empty and None mean any. `since` is included, `until` is not. `about`: who is actor or subject."""

    action: str = ""
    actor: str = ""
    since: datetime | None = None
    until: datetime | None = None
    about: str = ""


class Problem(StrEnum):
    """What is wrong at the first position that does not fit."""

    CHANGED = "changed"
    MISSING = "missing"
    INSERTED = "inserted"


@dataclass(frozen=True)
class Verdict:
    """`first_bad_sequence` 0 and no problem: the chain is intact up to `head_hash`."""

    records: int
    head_hash: bytes
    first_bad_sequence: int = 0
    problem: Problem | None = None

    @property
    def intact(self) -> bool:
        return self.problem is None


def chain_hash(key: bytes, tenant_id: UUID, sequence: int, fact: AuditFact, previous_hash: bytes) -> bytes:
    """The hash of `fact` at its place."""
    fields = (
        tenant_id.bytes,
        sequence.to_bytes(8, "big"),
        fact.id.bytes,
        ((fact.time - _EPOCH) // timedelta(microseconds=1)).to_bytes(8, "big", signed=True),
        *(
            value.encode()
            for value in (
                fact.actor,
                fact.action,
                fact.subject,
                fact.outcome,
                fact.client_ip,
                fact.request_id,
                fact.details,
            )
        ),
        previous_hash,
    )
    encoded = b"".join(len(value).to_bytes(4, "big") + value for value in fields)
    return hmac.digest(key, _LABEL + encoded, hashlib.sha256)


def next_record(key: bytes, tenant_id: UUID, head: Head, fact: AuditFact) -> AuditRecord:
    """The record that follows `head`."""
    sequence = head.sequence + 1
    return AuditRecord(sequence, fact, head.hash, chain_hash(key, tenant_id, sequence, fact, head.hash))


class ChainCheck:
    """Takes a chain's records in order, in parts, up to the head that was read before them."""

    def __init__(self, key: bytes, tenant_id: UUID, head: Head) -> None:
        self._key = key
        self._tenant_id = tenant_id
        self._head = head
        self._last = EMPTY
        self._bad: AuditRecord | None = None

    @property
    def position(self) -> int:
        """Sequence of the last record that fits."""
        return self._last.sequence

    def take(self, records: Iterable[AuditRecord]) -> Verdict | None:
        """Check the next records; a verdict at the first gap or bad record, whose `problem` `settle` may still refine."""
        for record in records:
            expected = self._last.sequence + 1
            if record.sequence != expected:
                return self._verdict(Problem.MISSING)
            if record.previous_hash != self._last.hash or not self._authentic(record, record.sequence):
                self._bad = record
                return self._verdict(Problem.CHANGED)
            self._last = Head(record.sequence, record.hash)
        return None

    def settle(self, verdict: Verdict, successor: AuditRecord | None) -> Verdict:
        """Tell a changed record from an inserted one, and from one that moved up because another was taken out.

        `successor` is the record after the bad one. If that links to the last good record, the bad one was put in between.
        """
        if self._bad is None:
            return verdict
        if (
            successor is not None
            and successor.previous_hash == self._last.hash
            and self._authentic(successor, self._last.sequence + 1)
        ):
            return self._verdict(Problem.INSERTED)
        if self._authentic(self._bad, self._bad.sequence + 1):
            return self._verdict(Problem.MISSING)
        return verdict

    def finish(self, beyond: AuditRecord | None) -> Verdict:
        """The verdict after the last record up to the head. `beyond`: a record after the head, read together with it."""
        if self._last.sequence < self._head.sequence:
            return self._verdict(Problem.MISSING)
        if self._last.hash != self._head.hash:
            # The records fit each other: it is the head that was changed.
            return Verdict(self._last.sequence, self._head.hash, max(1, self._head.sequence), Problem.CHANGED)
        if beyond is not None:
            return self._verdict(Problem.INSERTED)
        return Verdict(self._last.sequence, self._head.hash if self._head.sequence else b"")

    def _authentic(self, record: AuditRecord, sequence: int) -> bool:
        expected = chain_hash(self._key, self._tenant_id, sequence, record.fact, record.previous_hash)
        return hmac.compare_digest(expected, record.hash)

    def _verdict(self, problem: Problem) -> Verdict:
        return Verdict(self._last.sequence, self._head.hash, self._last.sequence + 1, problem)
