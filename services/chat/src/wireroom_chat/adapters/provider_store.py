"""Providers and aliases that are managed by API, in the database. Each change is one transaction with its events."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from wireroom_chat.adapters import audit_trail
from wireroom_chat.adapters.provider_health import CandidateKey
from wireroom_chat.adapters.provider_keys import KeySafe
from wireroom_chat.domain.routing import Health
from wireroom_common.db import Database
from wireroom_common.errors import not_found
from wireroom_common.outbox import emit
from wireroom_protos.events.v1 import events_pb2


@dataclass(frozen=True)
class StoredProvider:
    """A provider as it stands in the database. `problem`: why one of its keys cannot be opened."""

    name: str
    document: Mapping[str, Any]
    keys: Mapping[str, str] = field(repr=False)
    problem: str = ""


@dataclass(frozen=True)
class StoredConfig:
    """Everything of one revision."""

    revision: int
    providers: tuple[StoredProvider, ...]
    aliases: Mapping[str, Mapping[str, Any]]


class ProviderStore:
    """Reads and writes the configuration."""

    def __init__(self, database: Database, keys: KeySafe) -> None:
        self._database = database
        self._keys = keys

    async def revision(self) -> int:
        """It changes with every change of the configuration."""
        async with self._database.system() as connection:
            return int((await connection.execute(text("SELECT revision FROM provider_revision"))).scalar_one())

    async def load(self) -> StoredConfig:
        """All of it."""
        async with self._database.system() as connection:
            # First: a change that is committed meanwhile has a later revision and is read again.
            revision = (await connection.execute(text("SELECT revision FROM provider_revision"))).scalar_one()
            providers = (await connection.execute(text("SELECT name, document FROM providers ORDER BY name"))).all()
            keys = (await connection.execute(text("SELECT provider, name, key_sealed FROM provider_keys"))).all()
            aliases = (await connection.execute(text("SELECT name, document FROM model_aliases ORDER BY name"))).all()
        opened: dict[str, dict[str, str]] = {}
        problems: dict[str, str] = {}
        for row in keys:
            try:
                value = self._keys.open(row.provider, row.name, bytes(row.key_sealed))
            except ValueError as error:
                problems[row.provider] = f"the key '{row.name}' {error}"
                continue
            opened.setdefault(row.provider, {})[row.name] = value
        return StoredConfig(
            int(revision),
            tuple(
                StoredProvider(row.name, row.document, opened.get(row.name, {}), problems.get(row.name, "")) for row in providers
            ),
            {row.name: row.document for row in aliases},
        )

    async def put_provider(self, name: str, document: Mapping[str, Any], values: Mapping[str, str], actor: str) -> None:
        """Write a provider and the key values given; keys that the document does not name are destroyed."""
        async with self._database.system() as connection:
            await connection.execute(
                text(
                    "INSERT INTO providers (name, document, updated_by) VALUES (:name, CAST(:document AS jsonb), :actor)"
                    " ON CONFLICT (name) DO UPDATE SET document = excluded.document, updated_by = excluded.updated_by,"
                    " updated_at = now()"
                ),
                {"name": name, "document": json.dumps(document), "actor": actor},
            )
            await connection.execute(
                text("DELETE FROM provider_keys WHERE provider = :name AND name <> ALL(:kept)"),
                {"name": name, "kept": list(document.get("keys") or {})},
            )
            for key, value in values.items():
                await connection.execute(
                    text(
                        "INSERT INTO provider_keys (provider, name, key_sealed) VALUES (:provider, :name, :sealed)"
                        " ON CONFLICT (provider, name) DO UPDATE SET key_sealed = excluded.key_sealed, updated_at = now()"
                    ),
                    {"provider": name, "name": key, "sealed": self._keys.close(name, key, value)},
                )
            details = {"keys_set": ", ".join(sorted(values)), "models": str(len(document["models"]))}
            await self._changed(connection, "provider.changed", name, actor, details)

    async def delete_provider(self, name: str, actor: str) -> None:
        """Take a provider and its keys away; NOT_FOUND if there is none in the database."""
        async with self._database.system() as connection:
            gone = await connection.execute(text("DELETE FROM providers WHERE name = :name"), {"name": name})
            if not gone.rowcount:
                raise not_found("provider")
            await self._changed(connection, "provider.deleted", name, actor, {})

    async def put_alias(self, name: str, document: Mapping[str, Any], actor: str) -> None:
        """Write an alias."""
        async with self._database.system() as connection:
            await connection.execute(
                text(
                    "INSERT INTO model_aliases (name, document, updated_by) VALUES (:name, CAST(:document AS jsonb), :actor)"
                    " ON CONFLICT (name) DO UPDATE SET document = excluded.document, updated_by = excluded.updated_by,"
                    " updated_at = now()"
                ),
                {"name": name, "document": json.dumps(document), "actor": actor},
            )
            await self._changed(connection, "model_alias.changed", name, actor, {})

    async def delete_alias(self, name: str, actor: str) -> None:
        """Take an alias away; NOT_FOUND if there is none in the database."""
        async with self._database.system() as connection:
            gone = await connection.execute(text("DELETE FROM model_aliases WHERE name = :name"), {"name": name})
            if not gone.rowcount:
                raise not_found("model alias")
            await self._changed(connection, "model_alias.deleted", name, actor, {})

    async def _changed(
        self, connection: AsyncConnection, action: str, subject: str, actor: str, details: Mapping[str, str]
    ) -> None:
        revision = (
            await connection.execute(text("UPDATE provider_revision SET revision = revision + 1 RETURNING revision"))
        ).scalar_one()
        await audit_trail.record(connection, action, tenant_id=None, subject=subject, actor=actor, **details)
        changed = events_pb2.ChatProvidersChanged(revision=int(revision))
        await emit(connection, changed, tenant_id=None, subject="providers", actor=actor, effect=False)


class SqlIncidents:
    """Who tells of a circuit that opened or closed is the replica whose row makes the difference."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def tell(self, key: CandidateKey, health: Health, retry_in: float) -> None:
        provider, model, name = key
        values = {"provider": provider, "model": model, "key": name}
        payload: events_pb2.LlmProviderDegraded | events_pb2.LlmProviderRecovered
        async with self._database.system() as connection:
            if health.degraded:
                statement = "INSERT INTO provider_incidents (provider, model, key) VALUES (:provider, :model, :key) ON CONFLICT DO NOTHING"
                payload = events_pb2.LlmProviderDegraded(
                    provider=provider, model=model, key=name, retry_in_seconds=int(retry_in + 1)
                )
            else:
                statement = "DELETE FROM provider_incidents WHERE provider = :provider AND model = :model AND key = :key"
                payload = events_pb2.LlmProviderRecovered(provider=provider, model=model, key=name)
            if (await connection.execute(text(statement), values)).rowcount:
                await emit(connection, payload, tenant_id=None, subject=f"{provider}/{model}", actor="chat", effect=False)
