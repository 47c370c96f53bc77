"""The projections: reading `stats`, and rebuilding all of them from the log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from wireroom_common.bus import Catalogue
from wireroom_common.db import Database
from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_monitoring.counters import increments
from wireroom_monitoring.event_log import Entry, read_after
from wireroom_monitoring.scopes import INSTALLATION
from wireroom_monitoring.security import Addition, add
from wireroom_monitoring.security_facts import security_facts
from wireroom_protos.events.v1 import events_pb2


@dataclass(frozen=True)
class Stats:
    """Counts, and the offset of the newest event in them (0 without any)."""

    counters: Mapping[str, int]
    offset: int


async def read_stats(connection: AsyncConnection) -> Stats:
    """The counts of the transaction's tenant; in the system's transaction the sums over all tenants and the installation."""
    rows = (
        await connection.execute(
            text(
                "SELECT counter, sum(value)::bigint AS value, max(last_offset) AS last_offset FROM stats"
                " WHERE generation = (SELECT generation FROM log_head) GROUP BY counter"
            )
        )
    ).all()
    return Stats({row.counter: row.value for row in rows}, max((row.last_offset for row in rows), default=0))


async def rebuild_projection(database: Database, *, batch_size: int = 1000) -> int:
    """Replay the log into a new generation of the projections and switch to it; returns the offset up to which it was replayed.

    Appending goes on meanwhile and waits only for the last, short batch. Readers see the old generation until the switch. A rebuild
    that is started while another runs takes over: the older one ends with CONFLICT and changes nothing that is read.
    """
    catalogue = Catalogue.from_files(events_pb2.DESCRIPTOR)
    async with database.system() as connection:
        generation: int = (
            await connection.execute(
                text("UPDATE log_head SET building = greatest(generation, coalesce(building, 0)) + 1 RETURNING building")
            )
        ).scalar_one()
        # What an abandoned rebuild left behind.
        await _drop_others(connection)
    offset = 0
    while True:
        async with database.system() as connection:
            if await connection.scalar(text("SELECT building FROM log_head")) != generation:
                raise _superseded()
            entries = await read_after(connection, offset, limit=batch_size)
            await _add(connection, catalogue, generation, entries)
        offset = entries[-1].offset if entries else offset
        if len(entries) < batch_size:
            break
    async with database.system() as connection:
        # From here to the commit nothing is appended, so the rest is bounded by what came in since the last batch.
        if await connection.scalar(text("SELECT building FROM log_head FOR UPDATE")) != generation:
            raise _superseded()
        while entries := await read_after(connection, offset, limit=batch_size):
            await _add(connection, catalogue, generation, entries)
            offset = entries[-1].offset
        await connection.execute(
            text("UPDATE log_head SET generation = :generation, building = NULL"), {"generation": generation}
        )
        await _drop_others(connection)
    return offset


async def _drop_others(connection: AsyncConnection) -> None:
    for table in ("stats", "security_hours", "security_subjects"):
        await connection.execute(
            text(f"DELETE FROM {table} WHERE generation <> (SELECT generation FROM log_head)")  # noqa: S608  literals
        )


def _superseded() -> WireroomError:
    return WireroomError(
        ErrorKind.CONFLICT, "rebuild_superseded", "Another rebuild of the statistics has been started; this one has ended."
    )


async def _add(connection: AsyncConnection, catalogue: Catalogue, generation: int, entries: Sequence[Entry]) -> None:
    sums: dict[tuple[UUID, str], tuple[int, int]] = {}
    security: list[Addition] = []
    for entry in entries:
        spec = catalogue.events.get(entry.type)
        # An older version may replay a newer one's log: it counts the events it does not understand.
        payload = spec.payload.FromString(entry.data) if spec else None
        scope = entry.tenant_id or INSTALLATION
        if found := security_facts(payload):
            security.append(Addition(scope, entry.time, found))
        for counter, value in increments(entry.type, payload).items():
            key = (scope, counter)
            sums[key] = (sums.get(key, (0, 0))[0] + value, entry.offset)
    await add(connection, generation, security)
    if not sums:
        return
    await connection.execute(
        text(
            "INSERT INTO stats (tenant_id, generation, counter, value, last_offset)"
            " SELECT added.tenant_id, CAST(:generation AS integer), added.counter, added.value, added.last_offset"
            " FROM unnest(CAST(:tenants AS uuid[]), CAST(:counters AS text[]), CAST(:values AS bigint[]), CAST(:offsets AS bigint[]))"
            " AS added (tenant_id, counter, value, last_offset)"
            " ON CONFLICT (tenant_id, generation, counter)"
            " DO UPDATE SET value = stats.value + excluded.value, last_offset = excluded.last_offset"
        ),
        {
            "generation": generation,
            "tenants": [tenant for tenant, _ in sums],
            "counters": [counter for _, counter in sums],
            "values": [value for value, _ in sums.values()],
            "offsets": [offset for _, offset in sums.values()],
        },
    )
