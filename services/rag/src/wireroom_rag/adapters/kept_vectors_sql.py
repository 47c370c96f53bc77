"""The table `kept_vectors`: the cache tier of passages' vectors, and its upkeep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from wireroom_common.cache import Key
from wireroom_common.db import Database

_TEXT_BYTES = 32
_DELETED_AT_ONCE = 5_000
# Of one run; what is left is the next run's.
_DELETED_IN_ALL = 1_000_000


class KeptVectorRows:
    """Implements `Durable` for keys of tenants: `Key.digest` is the text's hash and the model's, one after the other."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def load(self, keys: Sequence[Key]) -> Mapping[Key, bytes]:
        """What is kept of them; it is used again today."""
        found: dict[Key, bytes] = {}
        for tenant_id, own in _by_tenant(keys).items():
            async with self._database.tenant(tenant_id) as connection:
                rows = (
                    await connection.execute(
                        text(
                            "SELECT text_sha256 || model AS digest, vector, used_on < current_date AS stale FROM kept_vectors"
                            " WHERE tenant_id = :tenant_id AND (text_sha256, model) IN"
                            " (SELECT * FROM unnest(CAST(:texts AS bytea[]), CAST(:models AS bytea[])))"
                        ),
                        {"tenant_id": tenant_id, **_columns(own)},
                    )
                ).all()
                vectors = {bytes(row.digest): bytes(row.vector) for row in rows}
                kept = {key: vectors[key.digest] for key in own if key.digest in vectors}
                stale = {bytes(row.digest) for row in rows if row.stale}
                if stale:
                    await connection.execute(
                        text(
                            "UPDATE kept_vectors SET used_on = current_date WHERE tenant_id = :tenant_id AND (text_sha256, model) IN"
                            " (SELECT * FROM unnest(CAST(:texts AS bytea[]), CAST(:models AS bytea[])))"
                        ),
                        {"tenant_id": tenant_id, **_columns([key for key in kept if key.digest in stale])},
                    )
            found |= kept
        return found

    async def save(self, entries: Mapping[Key, bytes]) -> None:
        """Vectors that are there already stay."""
        for tenant_id, own in _by_tenant(list(entries)).items():
            async with self._database.tenant(tenant_id) as connection:
                await connection.execute(
                    text(
                        "INSERT INTO kept_vectors (tenant_id, text_sha256, model, vector)"
                        " SELECT :tenant_id, * FROM unnest(CAST(:texts AS bytea[]), CAST(:models AS bytea[]), CAST(:vectors AS bytea[]))"
                        # In one order everywhere: replicas that keep the same texts wait for each other, and do not lock each other out.
                        " ORDER BY 2, 3 ON CONFLICT DO NOTHING"
                    ),
                    {"tenant_id": tenant_id, **_columns(own), "vectors": [entries[key] for key in own]},
                )

    async def delete(self, keys: Sequence[Key]) -> None:
        """Let vectors go."""
        for tenant_id, own in _by_tenant(keys).items():
            async with self._database.tenant(tenant_id) as connection:
                await connection.execute(
                    text(
                        "DELETE FROM kept_vectors WHERE tenant_id = :tenant_id AND (text_sha256, model) IN"
                        " (SELECT * FROM unnest(CAST(:texts AS bytea[]), CAST(:models AS bytea[])))"
                    ),
                    {"tenant_id": tenant_id, **_columns(own)},
                )


class KeptVectorUpkeep:
    """Lets go of what was not used for `days`, and of the least recently used above `most` vectors of all tenants together."""

    def __init__(self, database: Database, *, days: int, most: int) -> None:
        self._database = database
        self._days = days
        self._most = most

    async def __call__(self) -> int:
        """How many went."""
        surplus = await self._surplus()
        gone = 0
        while gone < _DELETED_IN_ALL and (number := await self._some(surplus - gone)):
            gone += number
        return gone

    async def _surplus(self) -> int:
        """How many are too many, up to what one run deletes: nothing that is not worth counting is counted."""
        async with self._database.system() as connection:
            count = await connection.execute(
                text("SELECT count(*) FROM (SELECT 1 FROM kept_vectors OFFSET :most LIMIT :limit) AS surplus"),
                {"most": self._most, "limit": _DELETED_IN_ALL},
            )
            number: int = count.scalar_one()
            return number

    async def _some(self, surplus: int) -> int:
        async with self._database.system() as connection:
            result = await connection.execute(
                text(
                    "WITH oldest AS (SELECT tenant_id, text_sha256, model, used_on, row_number() OVER (ORDER BY used_on) AS place"
                    " FROM kept_vectors ORDER BY used_on LIMIT :limit)"
                    " DELETE FROM kept_vectors k USING oldest o WHERE (o.place <= :surplus OR o.used_on < current_date - :days)"
                    " AND k.tenant_id = o.tenant_id AND k.text_sha256 = o.text_sha256 AND k.model = o.model"
                ),
                {"surplus": max(0, surplus), "limit": _DELETED_AT_ONCE, "days": self._days},
            )
        return result.rowcount


async def forget_vectors_of_documents(connection: AsyncConnection, tenant_id: UUID, document_ids: Sequence[UUID]) -> None:
    """Vectors of the passages of documents that are being deleted; another document with the same passage has it made anew some day."""
    await connection.execute(
        text(
            "DELETE FROM kept_vectors WHERE tenant_id = :tenant_id AND text_sha256 IN (SELECT sha256(convert_to(content, 'UTF8'))"
            " FROM chunks WHERE tenant_id = :tenant_id AND document_id = ANY(CAST(:ids AS uuid[])))"
        ),
        {"tenant_id": tenant_id, "ids": list(document_ids)},
    )


async def forget_vectors(connection: AsyncConnection, tenant_id: UUID) -> None:
    """All of the tenant: earlier versions of what is erased may be among them."""
    await connection.execute(text("DELETE FROM kept_vectors WHERE tenant_id = :tenant_id"), {"tenant_id": tenant_id})


def _by_tenant(keys: Sequence[Key]) -> dict[UUID, list[Key]]:
    tenants: dict[UUID, list[Key]] = {}
    for key in keys:
        if not isinstance(key.scope, UUID) or key.tags or len(key.digest) <= _TEXT_BYTES:
            msg = "Kept vectors belong to a tenant, a text and a model, and carry no tags."
            raise ValueError(msg)
        tenants.setdefault(key.scope, []).append(key)
    return tenants


def _columns(keys: Sequence[Key]) -> dict[str, list[bytes]]:
    return {"texts": [key.digest[:_TEXT_BYTES] for key in keys], "models": [key.digest[_TEXT_BYTES:] for key in keys]}
