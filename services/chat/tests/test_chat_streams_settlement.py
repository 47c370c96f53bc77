"""Who books a generation that another replica has taken over: the one that took it, once, with all that is known."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import timedelta
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from sqlalchemy import text
from stream_rig import TENANT, Replica, Script, replicas, rest_of, take, whole

from wireroom_chat.adapters.ledger import SqlLedger
from wireroom_chat.domain.frames import Frame, Info
from wireroom_chat.domain.pricing import Pricing
from wireroom_chat.domain.providers import Candidate, Price, ProviderModel
from wireroom_chat.metrics import ChatMetrics
from wireroom_chat.usecases.run import Runs
from wireroom_common.clock import SystemClock
from wireroom_common.db import Database
from wireroom_common.errors import WireroomError
from wireroom_common.testing import eventually
from wireroom_common.testing.plugin import MigratedDatabase

PRICE = Price(1_000_000, 1_000_000, "test")


class Booked(Script):
    """A generation of one replica, booked as the service does it."""

    def __init__(self, words: int, database: Database, replica: Replica, *, adopted: bool = False) -> None:
        super().__init__(words)
        self.adopted = adopted
        clock = SystemClock()
        self.runs = Runs(
            SqlLedger(database, clock), Pricing(None), clock, ChatMetrics(CollectorRegistry()), ownership=replica.streams
        )

    async def produce(self, start: int = 0, provider: str = "a") -> AsyncGenerator[Info | bytes, None]:
        async with self.runs.track(self.generation, adopted=self.adopted) as run:
            attempt = await run.begin(Candidate(ProviderModel(provider, "m", PRICE)), {"messages": []})
            attempt.begun = True
            async with aclosing(super().produce(start, provider)) as parts:
                async for part in parts:
                    if isinstance(part, bytes):
                        run.count(attempt, "word")
                    yield part
            attempt.status = "completed"


async def _booked(database: Database) -> tuple[list[str], list[tuple[str, int]]]:
    """The states of all generations; provider and tokens of all calls."""
    async with database.tenant(TENANT) as connection:
        rows = (await connection.execute(text("SELECT status FROM generations"))).scalars()
        calls = await connection.execute(text("SELECT provider, tokens_out FROM usage ORDER BY number"))
        return list(rows), [(call.provider, call.tokens_out) for call in calls]


async def _taken_over(
    database: Database, first: Replica, second: Replica
) -> tuple[Booked, Booked, list[Frame], AsyncGenerator[Frame, None]]:
    """Three words by the first replica, which then stands still; the second goes on and has written nothing yet."""
    script = Booked(8, database, first)
    going_on = Booked(8, database, second, adopted=True)
    going_on.generation, second.scripts[script.stream_id] = script.generation, going_on
    direct: Any = first.deliver(script)
    script.release(3)
    seen = await take(direct, 4)
    script.notes.append(direct)
    await eventually(lambda: first.buffer.inner.read(TENANT, script.stream_id, 3))
    first.buffer.severed = True
    resumed: Any = second.resume(script, after=4)
    seen.append(await anext(resumed))
    return script, going_on, seen, resumed


@pytest.mark.parametrize("told_by", ["the writer", "the settlement"])
async def test_paused_owner_leaves_the_settlement_to_the_one_that_took_it(
    clean_valkey_url: str, migrated_database: MigratedDatabase, told_by: str
) -> None:
    database = await migrated_database("chat")
    async with replicas(clean_valkey_url) as (first, second):
        script, going_on, seen, resumed = await _taken_over(database, first, second)
        if told_by == "the writer":
            first.buffer.severed = False
            script.release(1)
        else:
            # It comes to the end before it has written anything.
            first.buffer.reachable = {"owned"}
            script.release(8)
        with pytest.raises(WireroomError, match="stream_moved"):
            await rest_of(script.notes[0])
        await script.runs.drain()
        assert script.ended == ("cancelled" if told_by == "the writer" else "completed")
        assert await _booked(database) == (["running"], [])
        going_on.release(8)
        whole([*seen, *await rest_of(resumed)], script)
        await going_on.runs.drain()
        assert await _booked(database) == (["completed"], [("b", 5)])


async def test_what_neither_of_them_settles_is_closed_in_the_end(
    clean_valkey_url: str, migrated_database: MigratedDatabase
) -> None:
    database = await migrated_database("chat")
    async with replicas(clean_valkey_url) as (first, second):
        script, going_on, _, resumed = await _taken_over(database, first, second)
        first.buffer.severed = False
        script.release(1)
        with pytest.raises(WireroomError, match="stream_moved"):
            await rest_of(script.notes[0])
        await script.runs.drain()
        assert await SqlLedger(database, SystemClock()).settle_abandoned(SystemClock(), timedelta(0)) == 1
        # The prompt of the first call: that is all that its row knows.
        assert await _booked(database) == (["failed"], [("a", 0)])
        # Whoever comes late finds it closed.
        going_on.release(8)
        await rest_of(resumed)
        await going_on.runs.drain()
        # The prompt of the first call: that is all that its row knows.
        assert await _booked(database) == (["failed"], [("a", 0)])


async def test_owner_that_cannot_ask_settles(clean_valkey_url: str, migrated_database: MigratedDatabase) -> None:
    database = await migrated_database("chat")
    async with replicas(clean_valkey_url, 1) as (only,):
        script = Booked(4, database, only)
        direct: Any = only.deliver(script)
        script.release(2)
        seen = await take(direct, 3)
        only.buffer.severed = True
        script.release(2)
        whole([*seen, *await rest_of(direct)], script)
        await script.runs.drain()
        assert await _booked(database) == (["completed"], [("a", 4)])
