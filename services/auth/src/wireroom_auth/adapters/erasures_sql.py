"""Erasures in PostgreSQL: begun in the transaction that erases the account, completed by the last service that answers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from wireroom_auth.adapters import audit_trail
from wireroom_auth.adapters.account_erasure import erase_account, erase_directory
from wireroom_auth.adapters.directory_transaction import directory_transaction, require_operator
from wireroom_auth.adapters.epochs import raise_epoch, raise_tenant_epoch
from wireroom_auth.domain.erasure import (
    ERASE_SELF,
    ERASE_TENANT,
    OWN_PART,
    PARTS,
    Erasure,
    ErasureOrder,
    ErasureState,
    Part,
    Signer,
    receipt_of,
    tenant_name_wrong,
)
from wireroom_auth.domain.identity import DEFAULT_TENANT
from wireroom_auth.ports.erasures import OpenErasures
from wireroom_common.db import Database
from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_common.outbox import emit
from wireroom_common.principal import Principal
from wireroom_protos.events.v1 import events_pb2

_BATCH = 100


class SqlErasures:
    """Implements `Erasures`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def erase_self(self, caller: Principal, order: ErasureOrder) -> Erasure:
        async with directory_transaction(self._database, order.tenant_id) as transaction:
            await transaction.held_by(caller, ERASE_SELF)
            user = await transaction.user(caller.user_id())
            connection = transaction.connection
            await raise_epoch(connection, user.tenant_id, user.id, "deleted", order.requested_at, actor=caller.subject)
            counts = await erase_account(connection, user, actor=caller.subject)
            await transaction.require_left(frozenset(user.roles))
            await tell_deleted(connection, order)
            await begin(connection, order, counts)
            await transaction.record(
                "user.deleted", subject=str(user.id), actor=caller.subject, details={"erasure": str(order.id)}
            )
            return await _erasure(connection, order.tenant_id, order.id)

    async def erase_tenant(self, caller: Principal, order: ErasureOrder, name: str) -> Erasure:
        async with directory_transaction(self._database, order.tenant_id) as transaction:
            await transaction.held_by(caller, ERASE_TENANT)
            connection = transaction.connection
            tenant = (
                await connection.execute(
                    text("SELECT name FROM tenants WHERE tenant_id = :tenant_id"), {"tenant_id": order.tenant_id}
                )
            ).one()
            if tenant.name != name:
                raise tenant_name_wrong()
            if tenant.name == DEFAULT_TENANT:
                raise WireroomError(
                    ErrorKind.CONFLICT,
                    "default_tenant",
                    f"The tenant '{DEFAULT_TENANT}' stays: people who register without an invitation join it. Erase its users.",
                )
            await raise_tenant_epoch(connection, order.tenant_id, order.requested_at, actor=caller.subject)
            counts = await erase_directory(connection, order.tenant_id, actor=caller.subject)
            await require_operator(connection)
            await begin(connection, order, counts)
            for chain in (order.tenant_id, None):
                await audit_trail.record(
                    connection,
                    "tenant.erased",
                    tenant_id=chain,
                    subject=str(order.tenant_id),
                    actor=caller.subject,
                    details={"erasure": str(order.id)},
                )
            return await _erasure(connection, order.tenant_id, order.id)

    async def get(self, tenant_id: UUID, erasure_id: UUID) -> Erasure | None:
        async with self._database.tenant(tenant_id) as connection:
            return await _find(connection, "tenant_id = :tenant_id AND id = :id", {"tenant_id": tenant_id, "id": erasure_id})

    async def opened(self, erasure_id: UUID, token_hash: bytes) -> Erasure | None:
        async with self._database.system() as connection:
            return await _find(connection, "id = :id AND token_hash = :hash", {"id": erasure_id, "hash": token_hash})

    async def page(self, tenant_id: UUID, *, before: UUID | None, limit: int) -> list[Erasure]:
        async with self._database.tenant(tenant_id) as connection:
            ids = await connection.execute(
                text(
                    "SELECT id FROM erasures WHERE tenant_id = :tenant_id AND (CAST(:before AS uuid) IS NULL OR id < :before)"
                    " ORDER BY id DESC LIMIT :limit"
                ),
                {"tenant_id": tenant_id, "before": before, "limit": limit},
            )
            return [await _erasure(connection, tenant_id, erasure_id) for erasure_id in ids.scalars().all()]

    async def ask_again(self, now: datetime, *, every: timedelta) -> int:
        async with self._database.system() as connection:
            rows = (
                await connection.execute(
                    text(
                        "SELECT tenant_id, id FROM erasures WHERE completed_at IS NULL"
                        " AND (asked_at <= :before OR (state <> 'failed' AND deadline_at <= :now)) ORDER BY asked_at LIMIT :limit"
                    ),
                    {"before": now - every, "now": now, "limit": _BATCH},
                )
            ).all()
        for row in rows:
            await self._ask(row.tenant_id, row.id, now)
        return len(rows)

    async def _ask(self, tenant_id: UUID, erasure_id: UUID, now: datetime) -> None:
        async with self._database.tenant(tenant_id) as connection:
            erasure = await _locked(connection, tenant_id, erasure_id)
            if erasure is None or erasure.state is ErasureState.COMPLETED:
                return
            late = erasure.deadline_at <= now and erasure.state is not ErasureState.FAILED
            await connection.execute(
                text(
                    "UPDATE erasures SET asked_at = :now, state = CASE WHEN :late THEN 'failed' ELSE state END"
                    " WHERE tenant_id = :tenant_id AND id = :id"
                ),
                {"tenant_id": tenant_id, "id": erasure_id, "now": now, "late": late},
            )
            await _request(connection, erasure)
            if late:
                await audit_trail.record(
                    connection,
                    "erasure.overdue",
                    tenant_id=tenant_id,
                    subject=str(erasure_id),
                    actor=OWN_PART,
                    outcome="failure",
                    details={"missing": [part.name for part in erasure.parts if part.done_at is None]},
                )

    async def open_counts(self, now: datetime) -> OpenErasures:
        async with self._database.system() as connection:
            row = (
                await connection.execute(
                    text(
                        "SELECT count(*) AS open, count(*) FILTER (WHERE deadline_at <= :now) AS overdue"
                        " FROM erasures WHERE completed_at IS NULL"
                    ),
                    {"now": now},
                )
            ).one()
        return OpenErasures(row.open, row.overdue)


async def begin(connection: AsyncConnection, order: ErasureOrder, counts: Mapping[str, int]) -> None:
    """Ask every service, in the transaction that has erased this service's own part (`counts`)."""
    await connection.execute(
        text(
            "INSERT INTO erasures (tenant_id, id, user_id, requested_by, transfer_to, token_hash, requested_at, asked_at, deadline_at)"
            " VALUES (:tenant_id, :id, :user_id, :requested_by, :transfer_to, :token_hash, :now, :now, :deadline)"
        ),
        {
            "tenant_id": order.tenant_id,
            "id": order.id,
            "user_id": order.user_id,
            "requested_by": order.requested_by,
            "transfer_to": order.transfer_to,
            "token_hash": order.token_hash,
            "now": order.requested_at,
            "deadline": order.deadline_at,
        },
    )
    await connection.execute(
        text(
            "INSERT INTO erasure_parts (tenant_id, erasure_id, part, done_at, counts)"
            " VALUES (:tenant_id, :id, :part, :done_at, CAST(:counts AS jsonb))"
        ),
        [
            {
                "tenant_id": order.tenant_id,
                "id": order.id,
                "part": part,
                "done_at": order.requested_at if part == OWN_PART else None,
                "counts": json.dumps(dict(counts)) if part == OWN_PART else "{}",
            }
            for part in PARTS
        ],
    )
    await _request(connection, await _erasure(connection, order.tenant_id, order.id))


async def tell_deleted(connection: AsyncConnection, order: ErasureOrder) -> None:
    """The event that a user is gone."""
    event = events_pb2.AuthUserDeleted(user_id=str(order.user_id), by=order.requested_by, erasure_id=str(order.id))
    await emit(connection, event, tenant_id=order.tenant_id, subject=str(order.user_id), actor=order.requested_by)


async def take_part(connection: AsyncConnection, tenant_id: UUID, erasure_id: UUID, part: Part, signer: Signer) -> None:
    """What a service has answered, once; with the last answer the receipt is signed and told of.

    An erasure that is not known was begun by a version that asked for none.
    """
    erasure = await _locked(connection, tenant_id, erasure_id)
    if erasure is None or erasure.state is ErasureState.COMPLETED:
        return
    taken = await connection.execute(
        text(
            "UPDATE erasure_parts SET done_at = :done_at, counts = CAST(:counts AS jsonb), receipt_sha256 = :sha256,"
            " signature = :signature, public_key = :public_key"
            " WHERE tenant_id = :tenant_id AND erasure_id = :id AND part = :part AND done_at IS NULL"
        ),
        {
            "tenant_id": tenant_id,
            "id": erasure_id,
            "part": part.name,
            "done_at": part.done_at,
            "counts": json.dumps(dict(part.counts)),
            "sha256": part.receipt_sha256,
            "signature": part.signature,
            "public_key": part.public_key,
        },
    )
    if not taken.rowcount:
        return
    await connection.execute(
        text("UPDATE erasures SET state = 'running' WHERE tenant_id = :tenant_id AND id = :id AND state = 'requested'"),
        {"tenant_id": tenant_id, "id": erasure_id},
    )
    erasure = await _erasure(connection, tenant_id, erasure_id)
    if all(entry.done_at is not None for entry in erasure.parts):
        await _complete(connection, erasure, part.done_at or erasure.requested_at, signer)


async def _complete(connection: AsyncConnection, erasure: Erasure, completed_at: datetime, signer: Signer) -> None:
    receipt = receipt_of(erasure, completed_at, signer)
    await connection.execute(
        text(
            "UPDATE erasures SET state = 'completed', completed_at = :completed_at, receipt = :receipt, signature = :signature,"
            " public_key = :public_key WHERE tenant_id = :tenant_id AND id = :id"
        ),
        {
            "tenant_id": erasure.tenant_id,
            "id": erasure.id,
            "completed_at": completed_at,
            "receipt": receipt.content,
            "signature": receipt.signature,
            "public_key": receipt.public_key,
        },
    )
    event = events_pb2.PrivacyErasureCompleted(
        erasure_id=str(erasure.id), user_id=str(erasure.user_id or ""), receipt_sha256=receipt.sha256()
    )
    await emit(connection, event, tenant_id=erasure.tenant_id, subject=str(erasure.id), actor=OWN_PART, effect=False)
    await audit_trail.record(
        connection,
        "erasure.completed",
        tenant_id=erasure.tenant_id,
        subject=str(erasure.id),
        actor=OWN_PART,
        details={"receipt_sha256": receipt.sha256()},
    )


async def _request(connection: AsyncConnection, erasure: Erasure) -> None:
    event = events_pb2.PrivacyErasureRequested(
        erasure_id=str(erasure.id), user_id=str(erasure.user_id or ""), transfer_to=str(erasure.transfer_to or "")
    )
    subject = str(erasure.id)
    await emit(connection, event, tenant_id=erasure.tenant_id, subject=subject, actor=erasure.requested_by, effect=False)


async def _locked(connection: AsyncConnection, tenant_id: UUID, erasure_id: UUID) -> Erasure | None:
    values = {"tenant_id": tenant_id, "id": erasure_id}
    return await _find(connection, "tenant_id = :tenant_id AND id = :id FOR UPDATE", values)


async def _erasure(connection: AsyncConnection, tenant_id: UUID, erasure_id: UUID) -> Erasure:
    found = await _find(connection, "tenant_id = :tenant_id AND id = :id", {"tenant_id": tenant_id, "id": erasure_id})
    if found is None:
        msg = f"The erasure {erasure_id} is gone."
        raise RuntimeError(msg)
    return found


async def _find(connection: AsyncConnection, condition: str, values: Mapping[str, Any]) -> Erasure | None:
    row = (await connection.execute(text(f"SELECT * FROM erasures WHERE {condition}"), values)).one_or_none()  # noqa: S608  constants
    if row is None:
        return None
    parts = await connection.execute(
        text("SELECT * FROM erasure_parts WHERE tenant_id = :tenant_id AND erasure_id = :id ORDER BY part"),
        {"tenant_id": row.tenant_id, "id": row.id},
    )
    return _erasure_of(row, [_part(part) for part in parts])


def _part(row: Row[Any]) -> Part:
    return Part(row.part, row.done_at, dict(row.counts), row.receipt_sha256, row.signature, row.public_key)


def _erasure_of(row: Row[Any], parts: Sequence[Part]) -> Erasure:
    return Erasure(
        id=row.id,
        tenant_id=row.tenant_id,
        user_id=row.user_id,
        requested_by=row.requested_by,
        transfer_to=row.transfer_to,
        state=ErasureState(row.state),
        requested_at=row.requested_at,
        deadline_at=row.deadline_at,
        completed_at=row.completed_at,
        parts=parts,
        receipt=row.receipt,
        signature=row.signature,
        public_key=row.public_key,
    )
