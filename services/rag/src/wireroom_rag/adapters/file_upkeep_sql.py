"""Which files are still to be deleted, and how far the sweeps of the blob store are; over all tenants."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import text

from wireroom_common.db import Database


class FileUpkeep:
    """Implements `DroppedFiles` and `SweepPositions`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def dropped(self, limit: int) -> Sequence[str]:
        """Keys of files whose rows are gone, oldest first."""
        async with self._database.system() as connection:
            keys = await connection.execute(
                text("SELECT blob_key FROM dropped_files ORDER BY dropped_at, blob_key LIMIT :limit"), {"limit": limit}
            )
            return list(keys.scalars())

    async def forget(self, keys: Sequence[str]) -> None:
        """They are deleted."""
        async with self._database.system() as connection:
            await connection.execute(
                text("DELETE FROM dropped_files WHERE blob_key = ANY(CAST(:keys AS text[]))"), {"keys": list(keys)}
            )

    async def position(self, sweep: str) -> str:
        """Where it goes on; empty at the beginning."""
        async with self._database.system() as connection:
            found = await connection.execute(text("SELECT position FROM sweeps WHERE name = :name"), {"name": sweep})
            return found.scalar_one_or_none() or ""

    async def move(self, sweep: str, position: str) -> None:
        """Go on there."""
        async with self._database.system() as connection:
            await connection.execute(
                text(
                    "INSERT INTO sweeps (name, position) VALUES (:name, :position)"
                    " ON CONFLICT (name) DO UPDATE SET position = excluded.position"
                ),
                {"name": sweep, "position": position},
            )
