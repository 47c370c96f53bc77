"""The terms of collections in PostgreSQL, and the rule that binds them to the models of the index."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from wireroom_common.db import Database
from wireroom_rag.adapters.connections import worker
from wireroom_rag.domain.provider_terms import Receiver, Terms, index_not_allowed, model_not_allowed


class IndexReceivers:
    """Who gets texts by which embedding model; `default` is the model of tenants without an index. Unknown models get nothing."""

    def __init__(self, endpoints: Mapping[str, Receiver], default: str) -> None:
        self._endpoints = endpoints
        self._default = default

    def may_receive(self, model: str, terms: Sequence[Terms]) -> bool:
        """Whether the model may be given texts under these terms; one that is no endpoint gives them to nobody."""
        receiver = self._endpoints.get(model)
        return receiver is None or receiver.may_receive(terms)

    async def require_for_collection(self, connection: AsyncConnection, tenant_id: UUID, terms: Terms) -> None:
        """CONFLICT when a model of the tenant's index may not be given texts under the terms that a collection is about to have.

        What is decided stands until the end of the transaction: no index begins meanwhile.
        """
        if not terms:
            return
        await _lock(connection, tenant_id)
        rows = await connection.execute(
            text("SELECT DISTINCT model FROM generations WHERE tenant_id = :tenant_id AND state IN ('serving', 'building')"),
            {"tenant_id": tenant_id},
        )
        for model in sorted(rows.scalars()) or [self._default]:
            if not self.may_receive(model, [terms]):
                raise index_not_allowed(model)

    async def require_for_index(self, connection: AsyncConnection, tenant_id: UUID, model: str) -> None:
        """CONFLICT when a collection of the tenant has terms by which the model of an index that is about to begin gets nothing."""
        if model not in self._endpoints:
            return
        await _lock(connection, tenant_id)
        if not self.may_receive(model, await _of_tenant(connection, tenant_id)):
            raise model_not_allowed(model)


class ProviderTermsReader:
    """Implements `DocumentTerms` and `TenantTerms`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def of_documents(self, tenant_id: UUID, document_ids: Collection[UUID]) -> Mapping[UUID, Sequence[Terms]]:
        """By document: one entry for each collection with terms; documents without any are left out."""
        if not document_ids:
            return {}
        async with worker(self._database, tenant_id) as connection:
            rows = await connection.execute(
                text(
                    "SELECT DISTINCT m.document_id, c.providers FROM collection_documents m"
                    "  JOIN collections c ON c.tenant_id = m.tenant_id AND c.id = m.collection_id"
                    " WHERE m.tenant_id = :tenant_id AND m.document_id = ANY(CAST(:ids AS uuid[])) AND c.providers <> '{}'"
                ),
                {"tenant_id": tenant_id, "ids": list(document_ids)},
            )
            found: dict[UUID, list[Terms]] = {}
            for row in rows:
                found.setdefault(row.document_id, []).append(tuple(row.providers))
        return found

    async def of_tenant(self, tenant_id: UUID) -> Sequence[Terms]:
        """Each that any collection has, once."""
        async with worker(self._database, tenant_id) as connection:
            return await _of_tenant(connection, tenant_id)


async def _of_tenant(connection: AsyncConnection, tenant_id: UUID) -> list[Terms]:
    rows = await connection.execute(
        text("SELECT DISTINCT providers FROM collections WHERE tenant_id = :tenant_id AND providers <> '{}'"),
        {"tenant_id": tenant_id},
    )
    return [tuple(providers) for providers in rows.scalars()]


async def _lock(connection: AsyncConnection, tenant_id: UUID) -> None:
    # Terms and indexes are decided one after another in each tenant.
    await connection.execute(
        text("SELECT pg_advisory_xact_lock(hashtextextended('rag.provider_terms:' || CAST(:tenant_id AS text), 0))"),
        {"tenant_id": str(tenant_id)},
    )
