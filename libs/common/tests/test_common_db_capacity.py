"""What a process says at its start about the connections of a real PostgreSQL."""

from __future__ import annotations

import asyncio
from pathlib import Path

import psycopg
import pytest
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from wireroom_common.bus import Catalogue
from wireroom_common.clock import SystemClock
from wireroom_common.db import Database, DatabaseUrl
from wireroom_common.db.capacity import capacity_of
from wireroom_common.db.migrate import bootstrap
from wireroom_common.errors import OperatorError
from wireroom_common.runtime.infra import ProcessInfra
from wireroom_common.runtime.process import Module, Process
from wireroom_common.runtime.service import Infra, Service
from wireroom_common.runtime.settings import RuntimeSettings


def _database(url: str, pool_size: int, max_overflow: int) -> Database:
    bootstrap(DatabaseUrl.parse(url), ["demo"])
    return Database(DatabaseUrl.parse(url), "demo", pool_size=pool_size, max_overflow=max_overflow)


def _usable(url: str) -> tuple[int, int]:
    with psycopg.connect(url) as connection:
        row = connection.execute(
            "SELECT current_setting('max_connections')::int, current_setting('superuser_reserved_connections')::int"
            " + coalesce(current_setting('reserved_connections', true)::int, 0)"
        ).fetchone()
    assert row is not None
    return int(row[0]), int(row[0]) - int(row[1])


async def test_server_and_pools_are_counted_as_they_are(fresh_database_url: str) -> None:
    database = _database(fresh_database_url, pool_size=5, max_overflow=5)
    before = await capacity_of([database])
    most, usable = _usable(fresh_database_url)
    assert (before.max_connections, before.usable) == (most, usable)
    # A pool for each of two roles, five more of each for prepared statements, one that listens.
    assert (before.kept, before.most) == (5 + 2 + 1, 28)
    async with await psycopg.AsyncConnection.connect(fresh_database_url), database.system(), database.prepared_system():
        during = await capacity_of([database])
    # Other tests' pools may come and go; this process's own connections are not among the others.
    assert during.others >= 1
    assert database.connections_open >= 3
    await database.close()
    assert database.connections_open == 0


async def test_scarce_connections_are_told_with_numbers_and_an_impossible_pool_is_refused(fresh_database_url: str) -> None:
    most, usable = _usable(fresh_database_url)
    fitting = _database(fresh_database_url, pool_size=2, max_overflow=0)
    scarce = _database(fresh_database_url, pool_size=5, max_overflow=usable)
    impossible = _database(fresh_database_url, pool_size=usable, max_overflow=0)
    with capture_logs() as logs:
        (await capacity_of([fitting])).check()
        assert logs == []
        (await capacity_of([scarce])).check()
    (line,) = logs
    assert (line["event"], line["log_level"]) == ("database_connections_scarce", "warning")
    assert (line["max_connections"], line["usable"], line["most_of_this_process"]) == (most, usable, 18 + 2 * usable)
    assert (
        f"max_connections of PostgreSQL to {most - usable + 18 + 2 * usable + line['used_by_others']} or more" in line["advice"]
    )
    with pytest.raises(
        OperatorError, match=rf"takes {usable} connections .* keeps {usable + usable // 2 + 1}: raise max_connections"
    ):
        (await capacity_of([impossible])).check()
    # A limit of the database's own counts as well.
    with psycopg.connect(fresh_database_url, autocommit=True) as connection:
        name = psycopg.sql.Identifier(str(DatabaseUrl.parse(fresh_database_url).url.database))
        connection.execute(psycopg.sql.SQL("ALTER DATABASE {} CONNECTION LIMIT 4").format(name))
    with pytest.raises(OperatorError, match="takes 4 connections"):
        (await capacity_of([fitting])).check()
    for database in (fitting, scarce, impossible):
        await database.close()


async def test_process_does_not_start_where_its_pools_cannot_fit(
    fresh_database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def current(_database: Database) -> None: ...

    # This schema has no migrations.
    monkeypatch.setattr("wireroom_common.runtime.process.require_current", current)
    bootstrap(DatabaseUrl.parse(fresh_database_url), ["demo"])
    with psycopg.connect(fresh_database_url, autocommit=True) as connection:
        name = psycopg.sql.Identifier(str(DatabaseUrl.parse(fresh_database_url).url.database))
        connection.execute(psycopg.sql.SQL("ALTER DATABASE {} CONNECTION LIMIT 4").format(name))
    settings = RuntimeSettings(data_dir=tmp_path, database_url=fresh_database_url)
    infra = ProcessInfra(settings, Catalogue({}), registry=CollectorRegistry(), clock=SystemClock(), announce=print)

    def build(given: Infra) -> Service:
        return Service("demo", database=given.database("demo"))

    with pytest.raises(OperatorError, match="takes 4 connections"):
        async with asyncio.timeout(20):
            await Process([Module("demo", build)], infra).run()


async def test_process_without_redis_says_once_what_is_off(tmp_path: Path) -> None:
    settings = RuntimeSettings(data_dir=tmp_path, redis_url="embedded:")  # type: ignore[arg-type]  # pydantic makes it a secret
    infra = ProcessInfra(settings, Catalogue({}), registry=CollectorRegistry(), clock=SystemClock(), announce=print)
    with capture_logs() as logs:
        assert infra.caches() is infra.for_role("news").caches()
    (line,) = [entry for entry in logs if entry["event"] == "caches_without_redis"]
    assert "lists of articles" in line["off"]
    assert "WIREROOM_REDIS_URL" in line["advice"]
