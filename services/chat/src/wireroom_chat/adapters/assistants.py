"""Assistants in PostgreSQL."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from wireroom_chat.adapters import audit_trail
from wireroom_chat.domain.assistants import BUILT_IN_VERSION, Assistant, AssistantConfig, AssistantVersion
from wireroom_common.clock import Clock
from wireroom_common.db import Database
from wireroom_common.errors import ErrorKind, WireroomError, not_found

MAX_ASSISTANTS = 100
MAX_VERSIONS = 1_000
_SHOWN_VERSIONS = 100


class SqlAssistants:
    """A deleted assistant keeps its versions, and their numbers are not given again: records of usage name them."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def all(self, tenant_id: UUID) -> list[Assistant]:
        async with self._database.tenant(tenant_id) as connection:
            rows = (
                await connection.execute(
                    text(
                        "SELECT name, weights FROM assistants WHERE tenant_id = :tenant_id AND deleted_at IS NULL"
                        " ORDER BY name LIMIT :limit"
                    ),
                    {"tenant_id": tenant_id, "limit": MAX_ASSISTANTS},
                )
            ).all()
            versions = (
                await connection.execute(
                    text(
                        "SELECT v.assistant, v.number, v.config, v.created_at, v.created_by FROM assistants a JOIN assistant_versions v"
                        " ON v.tenant_id = a.tenant_id AND v.assistant = a.name AND a.weights ? v.number::text"
                        " WHERE a.tenant_id = :tenant_id AND a.deleted_at IS NULL"
                    ),
                    {"tenant_id": tenant_id},
                )
            ).all()
        return [
            _assistant(row.name, row.weights, [version for version in versions if version.assistant == row.name]) for row in rows
        ]

    async def find(self, tenant_id: UUID, name: str) -> Assistant | None:
        async with self._database.tenant(tenant_id) as connection:
            row = (
                await connection.execute(
                    text(
                        "SELECT name, weights FROM assistants WHERE tenant_id = :tenant_id AND name = :name AND deleted_at IS NULL"
                    ),
                    {"tenant_id": tenant_id, "name": name},
                )
            ).one_or_none()
            if row is None:
                return None
            versions = (
                await connection.execute(
                    text(
                        "SELECT number, config, created_at, created_by FROM assistant_versions"
                        " WHERE tenant_id = :tenant_id AND assistant = :name ORDER BY number DESC LIMIT :limit"
                    ),
                    {"tenant_id": tenant_id, "name": name, "limit": _SHOWN_VERSIONS},
                )
            ).all()
        return _assistant(row.name, row.weights, versions)

    async def version(self, tenant_id: UUID, name: str, number: int) -> AssistantVersion | None:
        async with self._database.tenant(tenant_id) as connection:
            row = (
                await connection.execute(
                    text(
                        "SELECT v.number, v.config, v.created_at, v.created_by FROM assistant_versions v JOIN assistants a"
                        " ON a.tenant_id = v.tenant_id AND a.name = v.assistant AND a.deleted_at IS NULL"
                        " WHERE v.tenant_id = :tenant_id AND v.assistant = :name AND v.number = :number"
                    ),
                    {"tenant_id": tenant_id, "name": name, "number": number},
                )
            ).one_or_none()
        return _version(row) if row is not None else None

    async def add_version(
        self,
        tenant_id: UUID,
        user_id: UUID,
        name: str,
        config: AssistantConfig,
        *,
        weights: Mapping[int, int] | None,
        create: bool,
    ) -> AssistantVersion:
        now = self._clock.now()
        async with self._database.tenant(tenant_id) as connection:
            row = await _locked(connection, tenant_id, name)
            if row is None:
                await _refuse_too_many(connection, tenant_id)
            elif create and row.deleted_at is None:
                raise WireroomError(
                    ErrorKind.CONFLICT, "assistant_exists", f"There is an assistant '{name}' already: add a version to it."
                )
            number = row.last_version + 1 if row is not None else 1
            if number > MAX_VERSIONS:
                raise WireroomError(
                    ErrorKind.CONFLICT, "assistant_versions_exhausted", f"An assistant has at most {MAX_VERSIONS} versions."
                )
            kept = row.weights if row is not None and row.deleted_at is None else _json_weights(weights or {number: 1})
            await connection.execute(
                text(
                    "INSERT INTO assistants (tenant_id, name, weights, last_version, created_at, updated_at)"
                    " VALUES (:tenant_id, :name, CAST(:weights AS jsonb), :number, :now, :now) ON CONFLICT (tenant_id, name) DO UPDATE"
                    " SET weights = EXCLUDED.weights, last_version = EXCLUDED.last_version, updated_at = EXCLUDED.updated_at,"
                    " deleted_at = NULL"
                ),
                {"tenant_id": tenant_id, "name": name, "weights": json.dumps(kept), "number": number, "now": now},
            )
            await connection.execute(
                text(
                    "INSERT INTO assistant_versions (tenant_id, assistant, number, config, created_at, created_by)"
                    " VALUES (:tenant_id, :name, :number, CAST(:config AS jsonb), :now, :user_id)"
                ),
                {
                    "tenant_id": tenant_id,
                    "name": name,
                    "number": number,
                    "config": config.model_dump_json(),
                    "now": now,
                    "user_id": user_id,
                },
            )
            await audit_trail.record(
                connection,
                "assistant.version.created",
                tenant_id=tenant_id,
                subject=name,
                actor=str(user_id),
                version=str(number),
            )
        return AssistantVersion(number, config, now, str(user_id))

    async def set_weights(self, tenant_id: UUID, user_id: UUID, name: str, weights: Mapping[int, int], *, built_in: bool) -> None:
        now = self._clock.now()
        async with self._database.tenant(tenant_id) as connection:
            row = await _locked(connection, tenant_id, name)
            if row is None or row.deleted_at is not None:
                if not built_in:
                    raise not_found("assistant")
                if set(weights) != {BUILT_IN_VERSION}:
                    raise not_found("assistant version")
                # All users have the shipped version anyway.
                return
            await connection.execute(
                text(
                    "UPDATE assistants SET weights = CAST(:weights AS jsonb), updated_at = :now"
                    " WHERE tenant_id = :tenant_id AND name = :name"
                ),
                {"tenant_id": tenant_id, "name": name, "weights": json.dumps(_json_weights(weights)), "now": now},
            )
            await audit_trail.record(
                connection,
                "assistant.weights.changed",
                tenant_id=tenant_id,
                subject=name,
                actor=str(user_id),
                weights=json.dumps(_json_weights(weights), sort_keys=True),
            )

    async def delete(self, tenant_id: UUID, user_id: UUID, name: str) -> bool:
        async with self._database.tenant(tenant_id) as connection:
            result = await connection.execute(
                text(
                    "UPDATE assistants SET deleted_at = :now, weights = '{}'"
                    " WHERE tenant_id = :tenant_id AND name = :name AND deleted_at IS NULL"
                ),
                {"tenant_id": tenant_id, "name": name, "now": self._clock.now()},
            )
            if result.rowcount:
                await audit_trail.record(connection, "assistant.deleted", tenant_id=tenant_id, subject=name, actor=str(user_id))
        return bool(result.rowcount)


async def _locked(connection: AsyncConnection, tenant_id: UUID, name: str) -> Any:
    # Also when there is no row yet: two first versions at once must not both be number 1.
    await connection.execute(
        text("SELECT pg_advisory_xact_lock(hashtextextended(:name, 0))"), {"name": f"assistant {tenant_id} {name}"}
    )
    return (
        await connection.execute(
            text(
                "SELECT weights, last_version, deleted_at FROM assistants WHERE tenant_id = :tenant_id AND name = :name FOR UPDATE"
            ),
            {"tenant_id": tenant_id, "name": name},
        )
    ).one_or_none()


async def _refuse_too_many(connection: AsyncConnection, tenant_id: UUID) -> None:
    count = await connection.execute(
        text("SELECT count(*) FROM assistants WHERE tenant_id = :tenant_id AND deleted_at IS NULL"), {"tenant_id": tenant_id}
    )
    if count.scalar_one() >= MAX_ASSISTANTS:
        raise WireroomError(
            ErrorKind.CONFLICT,
            "assistants_exhausted",
            f"A tenant has at most {MAX_ASSISTANTS} assistants: delete one that is not used.",
        )


def _assistant(name: str, weights: Mapping[str, int], versions: Sequence[Any]) -> Assistant:
    return Assistant(
        name,
        built_in=False,
        weights={int(number): weight for number, weight in weights.items()},
        versions={row.number: _version(row) for row in versions},
    )


def _version(row: Any) -> AssistantVersion:
    return AssistantVersion(row.number, AssistantConfig.model_validate(row.config), row.created_at, str(row.created_by))


def _json_weights(weights: Mapping[int, int]) -> dict[str, int]:
    return {str(number): weight for number, weight in sorted(weights.items())}
