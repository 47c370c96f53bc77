"""Transactions that state who reads. Row-level security shows nothing of documents, versions, chunks and postings to one that does not."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from wireroom_common.db import Database
from wireroom_rag.domain.scope import Scope

READERS_SETTING = "wireroom.readers"
# The policies take the setting apart at it.
_SEPARATOR = "\x1f"
_WORKER = "worker"


def scoped(
    database: Database, scope: Scope, settings: Mapping[str, str] | None = None
) -> AbstractAsyncContextManager[AsyncConnection]:
    """One transaction that sees what the caller may read. `settings` of the server that end with it go along."""
    return database.tenant(scope.tenant_id, {**(settings or {}), READERS_SETTING: _stated(scope)})


def worker(database: Database, tenant_id: UUID) -> AbstractAsyncContextManager[AsyncConnection]:
    """One transaction of the service's own work: all documents of the tenant, deleted ones among them. Never for what a caller reads."""
    return database.tenant(tenant_id, {READERS_SETTING: _WORKER})


async def as_worker(connection: AsyncConnection) -> None:
    """The rest of the transaction is the service's own work: after a caller's right was checked, and in handlers of events."""
    await connection.execute(text("SELECT set_config(:name, :value, true)"), {"name": READERS_SETTING, "value": _WORKER})


async def state_readers(connection: AsyncConnection, scope: Scope) -> None:
    """The rest of the transaction sees what the caller may read, again."""
    await connection.execute(text("SELECT set_config(:name, :value, true)"), {"name": READERS_SETTING, "value": _stated(scope)})


def _stated(scope: Scope) -> str:
    # A role with the separator in its name would be taken for several readers.
    if any(_SEPARATOR in token for token in scope.readers):
        msg = "A role has a name that no role can have."
        raise ValueError(msg)
    return _SEPARATOR.join(scope.readers)
