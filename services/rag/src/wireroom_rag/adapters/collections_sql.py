"""Collections in PostgreSQL."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar
from uuid import UUID

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from wireroom_common.db import Database
from wireroom_common.errors import ErrorKind, WireroomError, not_found
from wireroom_common.ids import new_id
from wireroom_common.outbox import emit
from wireroom_protos.events.v1 import events_pb2
from wireroom_rag.adapters import audit_trail
from wireroom_rag.adapters.collection_locks import VISIBLE, lock_for_change, viewer, visible_owner
from wireroom_rag.adapters.connections import scoped, state_readers
from wireroom_rag.adapters.erased_owners import refuse_erased
from wireroom_rag.adapters.membership_sql import fill
from wireroom_rag.adapters.provider_terms_sql import IndexReceivers
from wireroom_rag.adapters.readers_sql import lock_members, reread_for
from wireroom_rag.domain.collection import (
    Collection,
    CollectionChange,
    IdPage,
    NewCollection,
    Note,
    Visibility,
    require_change,
)
from wireroom_rag.domain.provider_terms import ANY
from wireroom_rag.domain.quota import Quotas
from wireroom_rag.domain.scope import Scope

T = TypeVar("T")
_COLLECTIONS = """
    SELECT c.id, c.owner_id, c.name, c.description, c.visibility, CAST(c.metadata AS text) AS metadata, c.created_at, c.updated_at,
           COALESCE(c.expires_days, 0) AS expires_days, c.last_active_at, c.providers, members.*
      FROM (SELECT c.* FROM collections c WHERE {condition}) c
     CROSS JOIN LATERAL (
        SELECT count(*) FILTER (WHERE v.state NOT IN ('indexed', 'rejected', 'failed')) AS pending,
               count(*) FILTER (WHERE v.state = 'indexed') AS indexed,
               count(*) FILTER (WHERE v.state = 'rejected') AS rejected,
               count(*) FILTER (WHERE v.state = 'failed') AS failed,
               CAST(COALESCE(sum(v.size), 0) AS bigint) AS size
          FROM collection_documents m
          JOIN documents d ON d.tenant_id = m.tenant_id AND d.id = m.document_id
          JOIN document_versions v ON v.tenant_id = d.tenant_id AND v.document_id = d.id AND v.version = d.latest_version
         WHERE m.tenant_id = c.tenant_id AND m.collection_id = c.id
     ) members
"""


def stored(value: Mapping[str, Note]) -> str:
    """Notes as jsonb takes them."""
    return json.dumps(value, ensure_ascii=False)


def page_clause(page: IdPage, column: str) -> tuple[str, dict[str, Any]]:
    """Condition, order and limit of one entry more than the page has; a page in front of something is read backwards."""
    forward = page.ascending != (page.before is not None)
    position = page.before or page.after
    condition = f" AND {column} {'>' if forward else '<'} :position" if position is not None else ""
    order = f" ORDER BY {column} {'ASC' if forward else 'DESC'} LIMIT :most"
    return condition + order, {"most": page.size + 1, **({"position": position} if position is not None else {})}


def cut(rows: Sequence[T], page: IdPage) -> tuple[Sequence[T], bool]:
    """The page in its order, and whether there is more."""
    kept = list(rows[: page.size])
    return (kept[::-1] if page.before is not None else kept), len(rows) > page.size


class CollectionStore:
    """Implements the port."""

    def __init__(self, database: Database, quotas: Quotas | None = None, receivers: IndexReceivers | None = None) -> None:
        self._database = database
        self._quotas = quotas or Quotas()
        self._receivers = receivers or IndexReceivers({}, "")

    async def create(self, scope: Scope, new: NewCollection, document_ids: Sequence[UUID]) -> Collection:
        """A collection of the caller, with its first members."""
        collection_id = new_id()
        async with scoped(self._database, scope) as connection:
            await refuse_erased(connection, scope.tenant_id, scope.user_id)
            await self._receivers.require_for_collection(connection, scope.tenant_id, new.providers)
            await connection.execute(
                text(
                    "INSERT INTO collections (tenant_id, id, owner_id, name, description, visibility, metadata, expires_days, providers)"
                    " VALUES (:tenant_id, :id, :owner_id, :name, :description, :visibility, CAST(:metadata AS jsonb),"
                    " NULLIF(CAST(:expires_days AS integer), 0), CAST(:providers AS text[]))"
                ),
                {
                    "tenant_id": scope.tenant_id,
                    "id": collection_id,
                    "owner_id": scope.user_id,
                    "name": new.name,
                    "description": new.description,
                    "visibility": new.visibility.value,
                    "metadata": stored(new.metadata),
                    "expires_days": new.expires_days,
                    "providers": list(new.providers),
                },
            )
            if document_ids:
                await fill(connection, scope, collection_id, sorted(set(document_ids)), quotas=self._quotas)
                await state_readers(connection, scope)
            event = events_pb2.RagCollectionCreated(
                collection_id=str(collection_id), owner_id=str(scope.user_id), visibility=new.visibility.value
            )
            await _tell(connection, scope, collection_id, event, "collection.created", visibility=new.visibility.value)
            return await self._found(connection, scope, collection_id)

    async def get(self, scope: Scope, collection_id: UUID) -> Collection:
        """The collection."""
        async with scoped(self._database, scope) as connection:
            return await self._found(connection, scope, collection_id)

    async def list(self, scope: Scope, page: IdPage) -> tuple[Sequence[Collection], bool]:
        """A page of them, and whether there are more in its direction."""
        clause, values = page_clause(page, "c.id")
        # Counted for the page alone, and put into order again after that.
        order = "ASC" if page.ascending != (page.before is not None) else "DESC"
        statement = f"{_COLLECTIONS.format(condition=VISIBLE + clause)} ORDER BY c.id {order}"
        async with scoped(self._database, scope) as connection:
            rows = (await connection.execute(text(statement), {**viewer(scope), **values})).all()
        return cut([_collection(row) for row in rows], page)

    async def update(self, scope: Scope, collection_id: UUID, change: CollectionChange) -> Collection:
        """The changed collection."""
        async with scoped(self._database, scope) as connection:
            await lock_for_change(connection, scope, collection_id)
            before = await self._found(connection, scope, collection_id)
            await self._receivers.require_for_collection(connection, scope.tenant_id, change.providers or ())
            rereads = change.visibility is not None and change.visibility is not before.visibility
            members = await lock_members(connection, scope.tenant_id, collection_id) if rereads else []
            await connection.execute(
                text(
                    "UPDATE collections SET name = COALESCE(:name, name), description = COALESCE(:description, description),"
                    " visibility = COALESCE(:visibility, visibility), metadata = COALESCE(CAST(:metadata AS jsonb), metadata),"
                    " expires_days = NULLIF(COALESCE(CAST(:expires_days AS integer), expires_days), 0),"
                    " providers = COALESCE(CAST(:providers AS text[]), providers),"
                    " acl_version = acl_version + :rereads, updated_at = now(), last_active_at = now()"
                    " WHERE tenant_id = :tenant_id AND id = :id"
                ),
                {
                    "tenant_id": scope.tenant_id,
                    "id": collection_id,
                    "name": change.name,
                    "description": change.description,
                    "visibility": change.visibility.value if change.visibility else None,
                    "metadata": stored(change.metadata) if change.metadata is not None else None,
                    "rereads": int(rereads),
                    "expires_days": change.expires_days,
                    "providers": list(change.providers) if change.providers is not None else None,
                },
            )
            await reread_for(connection, scope.tenant_id, collection_id, members)
            await state_readers(connection, scope)
            after = await self._found(connection, scope, collection_id)
            event = events_pb2.RagCollectionUpdated(collection_id=str(collection_id), visibility=after.visibility.value)
            await _tell(
                connection,
                scope,
                collection_id,
                event,
                "collection.updated",
                visibility=after.visibility.value,
                visibility_before=before.visibility.value,
                **_told_providers(before, after),
            )
            return after

    async def delete(self, scope: Scope, collection_id: UUID) -> None:
        """Its documents stay."""
        async with scoped(self._database, scope) as connection:
            require_change(scope, await visible_owner(connection, scope, collection_id, "FOR UPDATE"))
            members = await lock_members(connection, scope.tenant_id, collection_id)
            await connection.execute(
                text("DELETE FROM collections WHERE tenant_id = :tenant_id AND id = :id"),
                {"tenant_id": scope.tenant_id, "id": collection_id},
            )
            await reread_for(connection, scope.tenant_id, collection_id, members)
            event = events_pb2.RagCollectionDeleted(collection_id=str(collection_id))
            await _tell(connection, scope, collection_id, event, "collection.deleted")

    async def resolve(self, scope: Scope, names: Sequence[str]) -> tuple[UUID, ...]:
        """The collections with these ids or names; one's own goes before another's. CONFLICT for a name that several have."""
        async with scoped(self._database, scope) as connection:
            found = tuple(dict.fromkeys([await _resolved(connection, scope, name) for name in names]))
            # To the hour: a search is not to write each time.
            await connection.execute(
                text(
                    "UPDATE collections SET last_active_at = now() WHERE tenant_id = :tenant_id AND id = ANY(CAST(:ids AS uuid[]))"
                    " AND expires_days IS NOT NULL AND last_active_at < now() - interval '1 hour'"
                ),
                {"tenant_id": scope.tenant_id, "ids": list(found)},
            )
            return found

    async def _found(self, connection: AsyncConnection, scope: Scope, collection_id: UUID) -> Collection:
        statement = _COLLECTIONS.format(condition=f"{VISIBLE} AND c.id = :id")
        row = (await connection.execute(text(statement), {**viewer(scope), "id": collection_id})).one_or_none()
        if row is None:
            raise not_found("collection")
        return _collection(row)


async def _resolved(connection: AsyncConnection, scope: Scope, given: str) -> UUID:
    name = given.strip()
    # Collections without a name are found by their ids only.
    if not name or "\x00" in name:
        raise not_found("collection")
    try:
        wanted: dict[str, UUID | str | None] = {"id": UUID(name.removeprefix("vs_")), "name": None}
    except ValueError:
        wanted = {"id": None, "name": name}
    rows = (
        await connection.execute(
            text(
                f"SELECT c.id, c.owner_id FROM collections c WHERE {VISIBLE}"  # noqa: S608 - a constant of this file
                " AND (c.id = CAST(:id AS uuid) OR c.name = CAST(:name AS text))"
                " ORDER BY (c.owner_id = :user_id) DESC, c.id LIMIT 2"
            ),
            {**viewer(scope), "user_id": scope.user_id, **wanted},
        )
    ).all()
    if not rows:
        raise not_found("collection")
    if len(rows) > 1 and (rows[1].owner_id == scope.user_id or rows[0].owner_id != scope.user_id):
        raise WireroomError(
            ErrorKind.CONFLICT,
            "collection_ambiguous",
            "Several collections have this name: give the id of the one that you mean.",
        )
    found: UUID = rows[0].id
    return found


async def _tell(connection: AsyncConnection, scope: Scope, collection_id: UUID, event: Any, action: str, **details: str) -> None:
    subject, actor = str(collection_id), str(scope.user_id)
    await emit(connection, event, tenant_id=scope.tenant_id, subject=subject, actor=actor)
    await audit_trail.record(connection, action, tenant_id=scope.tenant_id, subject=subject, actor=actor, **details)


def _collection(row: Row[Any]) -> Collection:
    return Collection(
        id=row.id,
        owner_id=row.owner_id,
        name=row.name,
        description=row.description,
        visibility=Visibility(row.visibility),
        metadata=json.loads(row.metadata),
        created_at=row.created_at,
        updated_at=row.updated_at,
        pending=row.pending,
        indexed=row.indexed,
        rejected=row.rejected,
        failed=row.failed,
        size=row.size,
        expires_days=row.expires_days,
        last_active_at=row.last_active_at,
        providers=tuple(row.providers),
    )


def _told_providers(before: Collection, after: Collection) -> dict[str, str]:
    """For the audit, where they changed."""
    if before.providers == after.providers:
        return {}
    return {"providers": ",".join(after.providers) or ANY, "providers_before": ",".join(before.providers) or ANY}
