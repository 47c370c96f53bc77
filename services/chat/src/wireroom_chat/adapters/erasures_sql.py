"""Erasures of users and tenants: begun in the transaction of the event that asks, completed when the last text is gone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from uuid import UUID

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from wireroom_common.db import Database
from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_common.outbox import emit
from wireroom_protos.events.v1 import events_pb2

_LOCK = "hashtextextended('chat.erasure/' || CAST(:tenant_id AS text), 0)"
_BATCH = 100
_OPEN = "completed_at IS NULL"


async def refuse_erased(connection: AsyncConnection, tenant_id: UUID, owner_id: UUID) -> None:
    """FORBIDDEN `owner_erased` if the owner, or the tenant, is erased; if not, no erasure begins before the commit."""
    values = {"tenant_id": tenant_id, "owner_id": owner_id}
    # A statement of its own: the next one sees what the lock waited for.
    await connection.execute(text(f"SELECT pg_advisory_xact_lock_shared({_LOCK})"), values)
    found = await connection.execute(
        text("SELECT EXISTS (SELECT 1 FROM erasures WHERE tenant_id = :tenant_id AND (user_id = :owner_id OR user_id IS NULL))"),
        values,
    )
    if found.scalar_one():
        raise WireroomError(ErrorKind.FORBIDDEN, "owner_erased", "The account that this would belong to is being erased.")


async def begin_erasure(
    connection: AsyncConnection, tenant_id: UUID, erasure_id: UUID, user_id: UUID | None, *, tell: bool = True
) -> None:
    """Take everything of the user (None: of the tenant) away; texts of sessions follow with the next purge.

    Asked again after its completion, it is told again. `tell` False: nobody waits for an answer.
    """
    values = {"tenant_id": tenant_id, "id": erasure_id, "user_id": user_id}
    await connection.execute(text(f"SELECT pg_advisory_xact_lock({_LOCK})"), values)
    begun = await connection.execute(
        text(
            "INSERT INTO erasures (tenant_id, id, user_id, told) VALUES (:tenant_id, :id, :user_id, :told) ON CONFLICT DO NOTHING"
        ),
        {**values, "told": not tell},
    )
    if not begun.rowcount:
        row = (
            await connection.execute(
                text("SELECT * FROM erasures WHERE tenant_id = :tenant_id AND id = :id AND completed_at IS NOT NULL"), values
            )
        ).one_or_none()
        if row is not None:
            await _tell(connection, row)
        return
    counts = await _take_away(connection, tenant_id, user_id)
    await connection.execute(
        text("UPDATE erasures SET counts = CAST(:counts AS jsonb) WHERE tenant_id = :tenant_id AND id = :id"),
        {**values, "counts": json.dumps(counts)},
    )


class SqlErasures:
    """Completes what was begun."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def complete(self) -> int:
        """Tell of erasures of which no session is left, of all tenants; how many. Safe on several replicas."""
        async with self._database.system() as connection:
            rows = (
                await connection.execute(
                    text(
                        f"SELECT tenant_id, id FROM erasures e WHERE {_OPEN} AND NOT EXISTS (SELECT 1 FROM sessions s"  # noqa: S608 - constants
                        " WHERE s.tenant_id = e.tenant_id AND (e.user_id IS NULL OR s.owner_id = e.user_id))"
                        " ORDER BY requested_at LIMIT :limit"
                    ),
                    {"limit": _BATCH},
                )
            ).all()
        for found in rows:
            async with self._database.tenant(found.tenant_id) as connection:
                row = (
                    await connection.execute(
                        text(
                            "UPDATE erasures SET completed_at = now()"  # noqa: S608 - constants
                            f" WHERE tenant_id = :tenant_id AND id = :id AND {_OPEN} RETURNING *"
                        ),
                        {"tenant_id": found.tenant_id, "id": found.id},
                    )
                ).one_or_none()
                if row is not None and not row.told:
                    await _tell(connection, row)
        return len(rows)


async def _take_away(connection: AsyncConnection, tenant_id: UUID, user_id: UUID | None) -> dict[str, int]:
    values: dict[str, Any] = {"tenant_id": tenant_id, "user_id": user_id, "subject": str(user_id)}
    whose = "" if user_id is None else " AND {column} = :user_id"
    counts = {
        kind: await _scalar(
            connection,
            f"SELECT count(*) FROM {kind} WHERE tenant_id = :tenant_id{whose.format(column='owner_id')}",  # noqa: S608 - constants
            values,
        )
        for kind in ("sessions", "messages")
    }
    await connection.execute(
        text(
            "UPDATE sessions SET erase_reason = 'user_deleted'"  # noqa: S608 - constants
            f" WHERE tenant_id = :tenant_id{whose.format(column='owner_id')}"
        ),
        values,
    )
    for kind in ("artefacts", "responses", "feedback"):
        counts[kind] = await _deleted(
            connection,
            f"{kind} WHERE tenant_id = :tenant_id{whose.format(column='user_id')}",
            values,
        )
    of = " AND scope = 'user' AND subject = :subject" if user_id is not None else ""
    counts["budgets"] = await _deleted(connection, f"budgets WHERE tenant_id = :tenant_id{of}", values)
    if user_id is None:
        counts["assistant_versions"] = await _scalar(connection, "SELECT erase_assistants(:tenant_id)", values)
    return counts


async def _deleted(connection: AsyncConnection, of: str, values: Mapping[str, Any]) -> int:
    return (await connection.execute(text(f"DELETE FROM {of}"), values)).rowcount  # noqa: S608 - constants


async def _scalar(connection: AsyncConnection, statement: str, values: Mapping[str, Any]) -> int:
    value: int = (await connection.execute(text(statement), values)).scalar_one()
    return value


async def _tell(connection: AsyncConnection, row: Row[Any]) -> None:
    done = events_pb2.PrivacyErasurePartDone(erasure_id=str(row.id), part="chat", counts=dict(row.counts))
    await emit(connection, done, tenant_id=row.tenant_id, subject=str(row.id))
