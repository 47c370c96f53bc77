"""Artefacts in PostgreSQL."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

from sqlalchemy import text

from wireroom_chat.adapters.erasures_sql import refuse_erased
from wireroom_chat.ports.artefacts import Artefact
from wireroom_common.clock import Clock
from wireroom_common.db import Database
from wireroom_common.errors import ErrorKind, WireroomError, not_found
from wireroom_common.ids import new_id

_PURGE_LIMIT = 500


class SqlArtefacts:
    """Each method is one short transaction. `lifetime`: seconds; `per_user`: how many of a user may be unexpired."""

    def __init__(self, database: Database, clock: Clock, *, lifetime: float, per_user: int) -> None:
        self._database = database
        self._clock = clock
        self._lifetime = timedelta(seconds=lifetime)
        self._per_user = per_user

    async def keep(self, tenant_id: UUID, user_id: UUID, name: str, media_type: str, data: bytes) -> Artefact:
        now = self._clock.now()
        artefact = Artefact(new_id(), name, media_type, data, now, now + self._lifetime)
        async with self._database.tenant(tenant_id) as connection:
            await refuse_erased(connection, tenant_id, user_id)
            # Counting and inserting are one step for a user, however many of its calls run at once.
            await connection.execute(
                text("SELECT pg_advisory_xact_lock(hashtextextended(:owner, 0))"), {"owner": f"artefacts {user_id}"}
            )
            held = await connection.execute(
                text(
                    "SELECT count(*), min(expires_at) FROM artefacts"
                    " WHERE tenant_id = :tenant_id AND user_id = :user_id AND expires_at > :now"
                ),
                {"tenant_id": tenant_id, "user_id": user_id, "now": now},
            )
            count, earliest = held.one()
            if count >= self._per_user:
                raise WireroomError(
                    ErrorKind.RATE_LIMITED,
                    "artefacts_exhausted",
                    f"You have {count} files that have not expired, the most that are kept;"
                    f" the first one expires {earliest:%Y-%m-%d %H:%M} UTC.",
                    retry_after=max(1.0, (earliest - now).total_seconds()),
                )
            await connection.execute(
                text(
                    "INSERT INTO artefacts (tenant_id, id, user_id, name, media_type, data, created_at, expires_at)"
                    " VALUES (:tenant_id, :id, :user_id, :name, :media_type, :data, :created_at, :expires_at)"
                ),
                {
                    "tenant_id": tenant_id,
                    "id": artefact.id,
                    "user_id": user_id,
                    "name": name,
                    "media_type": media_type,
                    "data": data,
                    "created_at": now,
                    "expires_at": artefact.expires_at,
                },
            )
        return artefact

    async def get(self, tenant_id: UUID, user_id: UUID, artefact_id: UUID) -> Artefact:
        async with self._database.tenant(tenant_id) as connection:
            row = (
                await connection.execute(
                    text(
                        "SELECT id, name, media_type, data, created_at, expires_at FROM artefacts"
                        " WHERE tenant_id = :tenant_id AND id = :id AND user_id = :user_id AND expires_at > :now"
                    ),
                    {"tenant_id": tenant_id, "id": artefact_id, "user_id": user_id, "now": self._clock.now()},
                )
            ).one_or_none()
        if row is None:
            raise not_found("artefact")
        return Artefact(row.id, row.name, row.media_type, bytes(row.data), row.created_at, row.expires_at)

    async def purge(self) -> int:
        """Delete what has expired, a bounded number at a time; returns how many. Safe on several replicas."""
        async with self._database.system() as connection:
            result = await connection.execute(
                text(
                    "DELETE FROM artefacts WHERE (tenant_id, id) IN (SELECT tenant_id, id FROM artefacts WHERE expires_at <= :now"
                    " ORDER BY expires_at LIMIT :limit)"
                ),
                {"now": self._clock.now(), "limit": _PURGE_LIMIT},
            )
        return result.rowcount
