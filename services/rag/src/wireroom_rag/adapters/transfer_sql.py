"""What a leaver shared with others goes to somebody else; what nobody else reads stays behind, to be erased."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from wireroom_rag.adapters.readers_sql import reread
from wireroom_rag.domain.access import MANAGER, user_token

# Somebody other than the owner, the heir and whoever manages all collections reads it.
_SHARED = "EXISTS (SELECT 1 FROM unnest({table}.readers) AS reader WHERE reader <> ALL(CAST(:unshared AS text[])))"


@dataclass(frozen=True)
class Transferred:
    """How many of each have another owner now."""

    documents: int
    collections: int


async def transfer_shared(connection: AsyncConnection, tenant_id: UUID, leaver: UUID, heir: UUID) -> Transferred:
    """On the worker's connection, under the lock on additions. Collections before documents, as everywhere."""
    values: dict[str, Any] = {
        "tenant_id": tenant_id,
        "leaver": leaver,
        "heir": heir,
        "unshared": [MANAGER, user_token(leaver), user_token(heir)],
    }
    # Locked, and the documents' readers are taken before collections change hands.
    collections = await _ids(connection, "collections", "owner_id = :leaver", values)
    documents = await _ids(connection, "documents", "owner_id = :leaver AND kind = 'document' AND deleted_at IS NULL", values)
    await connection.execute(
        text("UPDATE collections SET owner_id = :heir WHERE tenant_id = :tenant_id AND id = ANY(CAST(:ids AS uuid[]))"),
        {**values, "ids": collections},
    )
    # The heir may have a file of the same name.
    await connection.execute(
        text(
            "UPDATE documents d SET owner_id = :heir, name = CASE WHEN EXISTS (SELECT 1 FROM documents o"
            " WHERE o.tenant_id = d.tenant_id AND o.owner_id = :heir AND o.name = d.name AND o.kind = 'document'"
            " AND o.deleted_at IS NULL) THEN left(CAST(d.id AS text), 13) || ' ' || left(d.name, 240) ELSE d.name END"
            " WHERE d.tenant_id = :tenant_id AND d.id = ANY(CAST(:ids AS uuid[]))"
        ),
        {**values, "ids": documents},
    )
    await reread(connection, tenant_id, documents)
    return Transferred(len(documents), len(collections))


async def _ids(connection: AsyncConnection, table: str, condition: str, values: Mapping[str, Any]) -> list[UUID]:
    rows = await connection.execute(
        text(
            f"SELECT id FROM {table} WHERE tenant_id = :tenant_id AND {condition} AND {_SHARED.format(table=table)}"  # noqa: S608  constants
            " ORDER BY id FOR UPDATE"
        ),
        dict(values),
    )
    return list(rows.scalars())
