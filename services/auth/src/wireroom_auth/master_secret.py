"""Changing the master secret: everything that was sealed under the old one is sealed under the new one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine
from sqlalchemy.pool import NullPool

from wireroom_auth.adapters import audit_trail
from wireroom_auth.adapters.encryption import SEALED_COLUMNS, SealedColumn, derive_key, seal, unseal
from wireroom_common.db import DatabaseUrl
from wireroom_common.errors import OperatorError

_SCHEMA = "auth"


@dataclass(frozen=True)
class Resealed:
    """How many values were sealed anew, by `table.column`; `done`: those that were under the new secret already."""

    changed: Mapping[str, int]
    done: int


async def reseal(url: DatabaseUrl, old: bytes, new: bytes) -> Resealed:
    """Seal all values anew in one transaction, as the owner of the schema: all of them or none.

    May be repeated after it was interrupted. OperatorError, with nothing changed, if a value fits neither secret.
    """
    engine = create_async_engine(url.as_role(f"{_SCHEMA}_owner"), poolclass=NullPool, hide_parameters=True)
    try:
        async with engine.begin() as connection:
            await connection.execute(text(f"SET LOCAL search_path = {_SCHEMA}, public"))
            # Nobody writes under the old secret meanwhile; whoever still runs with it fails clearly afterwards.
            tables = ", ".join(sorted({column.table for column in SEALED_COLUMNS}))
            await connection.execute(text(f"LOCK TABLE {tables} IN SHARE ROW EXCLUSIVE MODE"))
            changed: dict[str, int] = {}
            done = 0
            for column in SEALED_COLUMNS:
                count, already = await _reseal(connection, column, old, new)
                changed[f"{column.table}.{column.column}"] = count
                done += already
            await audit_trail.record(
                connection,
                "master_secret.rotated",
                tenant_id=None,
                subject="master_secret",
                actor="operator",
                details={"values": sum(changed.values())},
            )
    finally:
        await engine.dispose()
    return Resealed(changed, done)


async def _reseal(connection: AsyncConnection, column: SealedColumn, old: bytes, new: bytes) -> tuple[int, int]:
    before, after = derive_key(old, column.purpose), derive_key(new, column.purpose)
    rows = (
        await connection.execute(
            text(
                f"SELECT ctid::text AS place, {column.column} AS sealed, {column.bound_to} AS bound"  # noqa: S608  the registry's names
                f" FROM {column.table} WHERE {column.column} IS NOT NULL"
            )
        )
    ).all()
    changed = done = 0
    for row in rows:
        bound = bytes(row.bound)
        try:
            plaintext = unseal(before, bytes(row.sealed), bound_to=bound)
        except InvalidTag:
            if not _fits(after, bytes(row.sealed), bound):
                raise OperatorError(
                    f"A value in {column.table} was sealed under neither the old nor the new master secret;"
                    " nothing was changed. Give the secret that the installation runs with as the old one."
                ) from None
            done += 1
            continue
        await connection.execute(
            text(f"UPDATE {column.table} SET {column.column} = :sealed WHERE ctid = CAST(:place AS tid)"),  # noqa: S608  as above
            {"sealed": seal(after, plaintext, bound_to=bound), "place": row.place},
        )
        changed += 1
    return changed, done


def _fits(key: bytes, sealed: bytes, bound: bytes) -> bool:
    try:
        unseal(key, sealed, bound_to=bound)
    except InvalidTag:
        return False
    return True
