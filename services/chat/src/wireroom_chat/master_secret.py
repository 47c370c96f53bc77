"""Changing the master secret: provider keys that were sealed under the old one are sealed under the new one.

What else chat seals (streams, kept answers) stands in Redis for minutes: under a new secret it cannot be read, and expires.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from wireroom_chat.adapters.provider_keys import KeySafe
from wireroom_common.db import DatabaseUrl

_SCHEMA = "chat"


@dataclass(frozen=True)
class Resealed:
    """How many provider keys were sealed anew. `unreadable`: `provider/name` of those that fit neither secret and were left alone."""

    changed: int
    unreadable: tuple[str, ...]


async def reseal(url: DatabaseUrl, old: bytes, new: bytes) -> Resealed:
    """Seal all provider keys anew in one transaction, as the owner of the schema. May be repeated after it was interrupted.

    A key that fits neither secret was out of use before: it does not stop the others.
    """
    before, after = KeySafe(lambda: old), KeySafe(lambda: new)
    engine = create_async_engine(url.as_role(f"{_SCHEMA}_owner"), poolclass=NullPool, hide_parameters=True)
    changed, unreadable = 0, []
    try:
        async with engine.begin() as connection:
            await connection.execute(text(f"SET LOCAL search_path = {_SCHEMA}, public"))
            # Nobody writes under the old secret meanwhile.
            await connection.execute(text("LOCK TABLE provider_keys IN SHARE ROW EXCLUSIVE MODE"))
            rows = (await connection.execute(text("SELECT provider, name, key_sealed FROM provider_keys"))).all()
            for row in rows:
                value = _opened(before, row.provider, row.name, bytes(row.key_sealed))
                if value is None:
                    if _opened(after, row.provider, row.name, bytes(row.key_sealed)) is None:
                        unreadable.append(f"{row.provider}/{row.name}")
                    continue
                await connection.execute(
                    text("UPDATE provider_keys SET key_sealed = :sealed WHERE provider = :provider AND name = :name"),
                    {"sealed": after.close(row.provider, row.name, value), "provider": row.provider, "name": row.name},
                )
                changed += 1
    finally:
        await engine.dispose()
    return Resealed(changed, tuple(unreadable))


def _opened(safe: KeySafe, provider: str, name: str, sealed: bytes) -> str | None:
    try:
        return safe.open(provider, name, sealed)
    except ValueError:
        return None
