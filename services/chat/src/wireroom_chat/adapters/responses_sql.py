"""Stored responses in PostgreSQL."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

import orjson
from sqlalchemy import text

from wireroom_chat.adapters.erasures_sql import refuse_erased
from wireroom_chat.domain.source_terms import SourceTerms
from wireroom_chat.ports.responses import Owner, StoredResponse
from wireroom_common.db import Database

_MAX_TURNS = 500
_MAX_CONVERSATION_BYTES = 20 * 1024 * 1024
_SWEEP_LIMIT = 1000
_CONVERSATION = text(
    "WITH RECURSIVE turns AS ("
    " SELECT id, previous_id, created_at, items, response, source_terms, 1 AS turn, 0::bigint AS weight FROM responses"
    " WHERE tenant_id = :tenant_id AND id = :id AND user_id = :user_id"
    " UNION ALL"
    " SELECT before.id, before.previous_id, before.created_at, before.items, before.response, before.source_terms, turns.turn + 1,"
    " turns.weight + octet_length(before.items) + octet_length(before.response)"
    " FROM turns JOIN responses before ON before.tenant_id = :tenant_id AND before.id = turns.previous_id"
    " WHERE before.user_id = :user_id AND turns.turn < :most AND turns.weight < :heaviest)"
    " SELECT id, previous_id, created_at, items, response, source_terms FROM turns ORDER BY turn DESC"
)


class SqlResponses:
    """Each method is one short transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, owner: Owner, response: StoredResponse, *, final: bool = True) -> None:
        async with self._database.tenant(owner.tenant_id) as connection:
            await refuse_erased(connection, owner.tenant_id, owner.user_id)
            await connection.execute(
                text(
                    "INSERT INTO responses (tenant_id, user_id, id, previous_id, created_at, items, response, source_terms)"
                    " VALUES (:tenant_id, :user_id, :id, :previous_id, :created_at, :items, :response, CAST(:terms AS jsonb))"
                    " ON CONFLICT (tenant_id, id) DO UPDATE"
                    " SET items = excluded.items, response = excluded.response, source_terms = excluded.source_terms"
                    " WHERE :final AND responses.user_id = excluded.user_id"
                ),
                {
                    "tenant_id": owner.tenant_id,
                    "user_id": owner.user_id,
                    "id": response.id,
                    "previous_id": response.previous_id,
                    "created_at": response.created_at,
                    "items": response.items,
                    "response": response.response,
                    "terms": orjson.dumps(response.terms.written()).decode(),
                    "final": final,
                },
            )

    async def get(self, owner: Owner, response_id: UUID) -> StoredResponse | None:
        async with self._database.tenant(owner.tenant_id) as connection:
            result = await connection.execute(
                text(
                    "SELECT id, previous_id, created_at, items, response, source_terms FROM responses"
                    " WHERE tenant_id = :tenant_id AND id = :id AND user_id = :user_id"
                ),
                {"tenant_id": owner.tenant_id, "id": response_id, "user_id": owner.user_id},
            )
            row = result.one_or_none()
        return _stored(row) if row is not None else None

    async def delete(self, owner: Owner, response_id: UUID) -> bool:
        async with self._database.tenant(owner.tenant_id) as connection:
            result = await connection.execute(
                text("DELETE FROM responses WHERE tenant_id = :tenant_id AND id = :id AND user_id = :user_id RETURNING id"),
                {"tenant_id": owner.tenant_id, "id": response_id, "user_id": owner.user_id},
            )
            return result.one_or_none() is not None

    async def conversation(self, owner: Owner, response_id: UUID) -> list[StoredResponse]:
        async with self._database.tenant(owner.tenant_id) as connection:
            result = await connection.execute(
                _CONVERSATION,
                {
                    "tenant_id": owner.tenant_id,
                    "id": response_id,
                    "user_id": owner.user_id,
                    "most": _MAX_TURNS,
                    "heaviest": _MAX_CONVERSATION_BYTES,
                },
            )
            return [_stored(row) for row in result]

    async def expire(self, before: datetime) -> int:
        """Delete what was created before, of all tenants; returns how many. At most a thousand at a time."""
        async with self._database.system() as connection:
            result = await connection.execute(
                text(
                    "DELETE FROM responses WHERE (tenant_id, id) IN"
                    " (SELECT tenant_id, id FROM responses WHERE created_at < :before ORDER BY created_at LIMIT :most"
                    " FOR UPDATE SKIP LOCKED) RETURNING id"
                ),
                {"before": before, "most": _SWEEP_LIMIT},
            )
            return len(result.all())


def _stored(row: Any) -> StoredResponse:
    return StoredResponse(
        row.id, row.previous_id, row.created_at, bytes(row.items), bytes(row.response), SourceTerms.read(row.source_terms)
    )
