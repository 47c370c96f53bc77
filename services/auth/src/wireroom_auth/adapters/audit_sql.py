"""The audit chains in PostgreSQL."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from cryptography.exceptions import InvalidTag
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from wireroom_auth.adapters import audit_trail
from wireroom_auth.adapters.encryption import AUDIT_KEY, Sealing
from wireroom_auth.domain.audit import (
    GENESIS,
    INSTALLATION,
    KEY_BYTES,
    AuditFact,
    AuditFilter,
    AuditRecord,
    Head,
    Verdict,
    next_record,
)
from wireroom_common.clock import Clock
from wireroom_common.db import Database
from wireroom_common.errors import OperatorError

_BOUND_TO = b"audit_key"
_LONGEST_DETAILS = 16 * 1024
_COLUMNS = (
    "sequence, id, occurred_at, actor, action, subject, outcome, client_ip, request_id, details, previous_hash, hash"  # one list
)


class AuditKey:
    """The key of all chains: random, kept in the database encrypted under the master secret, so that the secret can be changed."""

    def __init__(
        self, database: Database, clock: Clock, master_secret: Callable[[], bytes], random: Callable[[int], bytes]
    ) -> None:
        self._database = database
        self._clock = clock
        self._sealing = Sealing(master_secret)
        self._random = random
        self._key: bytes | None = None

    async def load(self) -> None:
        """Read the key, or make the installation's; all replicas end up with the same. OperatorError for another master secret."""
        fresh = self._sealing.seal(AUDIT_KEY, self._random(KEY_BYTES), bound_to=_BOUND_TO)
        async with self._database.system() as connection:
            await connection.execute(
                text("INSERT INTO audit_keys (sealed, created_at) VALUES (:sealed, :now) ON CONFLICT (singleton) DO NOTHING"),
                {"sealed": fresh, "now": self._clock.now()},
            )
            sealed = await connection.scalar(text("SELECT sealed FROM audit_keys"))
        try:
            self._key = self._sealing.unseal(AUDIT_KEY, bytes(sealed), bound_to=_BOUND_TO)
        except InvalidTag:
            msg = (
                "The key of the audit trail cannot be decrypted with this master secret; "
                "set WIREROOM_MASTER_SECRET to the one the installation was made with."
            )
            raise OperatorError(msg) from None

    def value(self) -> bytes:
        """The key; RuntimeError before `load`."""
        if self._key is None:
            msg = "The key of the audit trail is not loaded: the service has not started."
            raise RuntimeError(msg)
        return self._key


class SqlAuditTrail:
    """Read as the app role of the chain's tenant; only `append` writes, as the system role."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def page(self, chain: UUID, after: int, chosen: AuditFilter, *, limit: int) -> Sequence[AuditRecord]:
        conditions = ["tenant_id = :chain", "sequence > :after"]
        if chosen.action:
            conditions.append("action = :action")
        if chosen.actor:
            conditions.append("actor = :actor")
        if chosen.about:
            conditions.append("(actor = :about OR subject = :about)")
        if chosen.since is not None:
            conditions.append("occurred_at >= :since")
        if chosen.until is not None:
            conditions.append("occurred_at < :until")
        async with self._database.tenant(chain) as connection:
            rows = await connection.execute(
                text(
                    f"SELECT {_COLUMNS} FROM audit_records"  # noqa: S608  constants
                    f" WHERE {' AND '.join(conditions)} ORDER BY sequence LIMIT :limit"
                ),
                {
                    "chain": chain,
                    "after": after,
                    "action": chosen.action,
                    "actor": chosen.actor,
                    "about": chosen.about,
                    "since": chosen.since,
                    "until": chosen.until,
                    "limit": limit,
                },
            )
            return [_record(row) for row in rows]

    async def head(self, chain: UUID) -> tuple[Head, AuditRecord | None]:
        async with self._database.tenant(chain) as connection:
            # One statement: a fact that is chained meanwhile moves both or neither.
            row = (
                await connection.execute(
                    text(
                        "SELECT coalesce(head.sequence, 0) AS head_sequence, coalesce(head.hash, :genesis) AS head_hash, beyond.*"  # noqa: S608  constants
                        " FROM (SELECT 1) one LEFT JOIN audit_heads head ON head.tenant_id = :chain LEFT JOIN LATERAL"
                        f" (SELECT {_COLUMNS} FROM audit_records WHERE tenant_id = :chain"
                        " AND audit_records.sequence > coalesce(head.sequence, 0) ORDER BY sequence LIMIT 1) beyond ON true"
                    ),
                    {"chain": chain, "genesis": GENESIS},
                )
            ).one()
        return Head(row.head_sequence, bytes(row.head_hash)), _record(row) if row.sequence is not None else None

    async def claim_unverified(self, *, before: datetime, now: datetime) -> UUID | None:
        async with self._database.system() as connection:
            chain: UUID | None = await connection.scalar(
                text(
                    "UPDATE audit_heads SET verified_at = :now WHERE tenant_id = (SELECT tenant_id FROM audit_heads"
                    " WHERE verified_at IS NULL OR verified_at <= :before ORDER BY verified_at NULLS FIRST LIMIT 1"
                    " FOR UPDATE SKIP LOCKED) RETURNING tenant_id"
                ),
                {"before": before, "now": now},
            )
            return chain

    async def record_verification(self, chain: UUID, verdict: Verdict, *, actor: str) -> None:
        details: dict[str, Any] = {"records": verdict.records}
        if verdict.problem is not None:
            details |= {"problem": verdict.problem.value, "first_bad_sequence": verdict.first_bad_sequence}
        async with self._database.system() as connection:
            await audit_trail.record(
                connection,
                "audit.verified",
                tenant_id=None if chain == INSTALLATION else chain,
                subject=str(chain),
                actor=actor,
                outcome="success" if verdict.intact else "failure",
                details=details,
            )

    async def record_export(self, tenant_id: UUID, user_id: UUID) -> None:
        async with self._database.tenant(tenant_id) as connection:
            await audit_trail.record(connection, "data.exported", tenant_id=tenant_id, subject=str(user_id), actor=str(user_id))


async def append(connection: AsyncConnection, key: bytes, chain: UUID, fact: AuditFact) -> AuditRecord | None:
    """Put a fact at the end of its chain, in the system role's transaction; None if it stands there already.

    The head stays locked until the commit: facts of one chain queue here, those of different chains do not meet.
    """
    row = (
        await connection.execute(
            text(
                "INSERT INTO audit_heads (tenant_id, sequence, hash) VALUES (:chain, 0, :genesis)"
                " ON CONFLICT (tenant_id) DO UPDATE SET sequence = audit_heads.sequence RETURNING sequence, hash"
            ),
            {"chain": chain, "genesis": GENESIS},
        )
    ).one()
    present = await connection.scalar(
        text("SELECT 1 FROM audit_records WHERE tenant_id = :chain AND id = :id"), {"chain": chain, "id": fact.id}
    )
    if present is not None:
        return None
    record = next_record(key, chain, Head(row.sequence, bytes(row.hash)), fact)
    await connection.execute(
        text(
            f"INSERT INTO audit_records (tenant_id, {_COLUMNS}) VALUES (:chain, :sequence, :id, :time, :actor, :action,"  # noqa: S608  constant
            " :subject, :outcome, :client_ip, :request_id, :details, :previous_hash, :hash)"
        ),
        {
            "chain": chain,
            "sequence": record.sequence,
            "id": fact.id,
            "time": fact.time,
            "actor": fact.actor,
            "action": fact.action,
            "subject": fact.subject,
            "outcome": fact.outcome,
            "client_ip": fact.client_ip,
            "request_id": fact.request_id,
            "details": fact.details,
            "previous_hash": record.previous_hash,
            "hash": record.hash,
        },
    )
    await connection.execute(
        text("UPDATE audit_heads SET sequence = :sequence, hash = :hash WHERE tenant_id = :chain"),
        {"chain": chain, "sequence": record.sequence, "hash": record.hash},
    )
    return record


def stored_details(details_json: str) -> str:
    """The details as they are stored and hashed: one canonical JSON object.

    A fact is never lost for its details: what is no object, or longer than 16 KiB, is replaced by a note.
    """
    try:
        details = json.loads(details_json or "{}")
    except (ValueError, RecursionError):
        details = None
    if not isinstance(details, dict):
        details = {"unreadable": len(details_json)}
    canonical = json.dumps(details, sort_keys=True, separators=(",", ":"))
    if len(canonical) > _LONGEST_DETAILS:
        canonical = json.dumps({"omitted": len(canonical)})
    return canonical


def _record(row: Any) -> AuditRecord:
    fact = AuditFact(
        id=row.id,
        time=row.occurred_at,
        actor=row.actor,
        action=row.action,
        subject=row.subject,
        outcome=row.outcome,
        client_ip=row.client_ip,
        request_id=row.request_id,
        details=row.details,
    )
    return AuditRecord(row.sequence, fact, bytes(row.previous_hash), bytes(row.hash))
