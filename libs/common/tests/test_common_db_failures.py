"""Which failures of a real PostgreSQL mean "try again", and that their cause can be read in the log."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from uuid import uuid4

import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from structlog.testing import capture_logs

from wireroom_common.db import Database, DatabaseUrl
from wireroom_common.db.schema import system_table
from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_common.testing.plugin import MakeDatabase

DDL = ["CREATE TABLE demo.leases (name text PRIMARY KEY, holder int)", *system_table("demo", "leases")]


@pytest.fixture
async def database(make_database: MakeDatabase) -> AsyncIterator[Database]:
    database = await make_database("demo", DDL)
    async with database.system() as connection:
        await connection.execute(text("INSERT INTO leases VALUES ('a', 0), ('b', 0)"))
    return database


async def fail_with(database: Database, statement: str, *before: str) -> tuple[WireroomError, str]:
    """The error of `statement`, and the cause that was logged for it."""

    async def run() -> None:
        async with database.system() as connection:
            for each in (*before, statement):
                await connection.execute(text(each))

    with capture_logs() as logs, pytest.raises(WireroomError) as caught:
        await run()
    (entry,) = logs
    assert (entry["log_level"], entry["event"], entry["service"]) == ("warning", caught.value.code, "demo")
    return caught.value, entry["error"]


async def test_statement_timeout_is_busy(database: Database) -> None:
    error, cause = await fail_with(database, "SELECT pg_sleep(60)", "SET LOCAL statement_timeout = 50")
    assert (error.kind, error.code) == (ErrorKind.UNAVAILABLE, "database_busy")
    assert error.retry_after > 0
    assert cause == "QueryCanceled: canceling statement due to statement timeout"


async def test_lock_timeout_is_busy(database: Database) -> None:
    async with database.system() as holder:
        await holder.execute(text("UPDATE leases SET holder = 1 WHERE name = 'a'"))
        error, cause = await fail_with(database, "UPDATE leases SET holder = 2 WHERE name = 'a'", "SET LOCAL lock_timeout = 50")
    assert (error.kind, error.code) == (ErrorKind.UNAVAILABLE, "database_busy")
    assert cause == "LockNotAvailable: canceling statement due to lock timeout"


async def test_deadlock_is_busy_for_one_and_no_trouble_for_the_other(database: Database) -> None:
    both_hold = asyncio.Barrier(2)

    async def swap(first: str, second: str) -> None:
        async with database.system() as connection:
            update = text("UPDATE leases SET holder = holder + 1 WHERE name = :name")
            await connection.execute(update, {"name": first})
            await both_hold.wait()
            await connection.execute(update, {"name": second})

    with capture_logs() as logs:
        outcomes = await asyncio.gather(swap("a", "b"), swap("b", "a"), return_exceptions=True)
    (error,) = [outcome for outcome in outcomes if outcome is not None]
    assert isinstance(error, WireroomError)
    assert (error.kind, error.code) == (ErrorKind.UNAVAILABLE, "database_busy")
    assert [(entry["event"], entry["error"]) for entry in logs] == [("database_busy", "DeadlockDetected: deadlock detected")]
    async with database.system() as connection:
        assert (await connection.execute(text("SELECT holder FROM leases ORDER BY name"))).scalars().all() == [1, 1]


async def test_serialization_failure_is_busy(database: Database) -> None:
    async def overtaken() -> None:
        async with database.system() as late:
            await late.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"))
            await late.execute(text("SELECT * FROM leases"))
            async with database.system() as early:
                await early.execute(text("UPDATE leases SET holder = 1"))
            await late.execute(text("UPDATE leases SET holder = 2"))

    with capture_logs() as logs, pytest.raises(WireroomError) as caught:
        await overtaken()
    assert (caught.value.kind, caught.value.code) == (ErrorKind.UNAVAILABLE, "database_busy")
    assert [entry["error"].partition(":")[0] for entry in logs] == ["SerializationFailure"]


async def test_killed_backend_is_unavailable_and_the_next_transaction_works(database: Database, fresh_database_url: str) -> None:
    async def killed() -> None:
        async with database.system() as connection:
            backend = await connection.scalar(text("SELECT pg_backend_pid()"))
            with psycopg.connect(fresh_database_url, autocommit=True) as admin:
                admin.execute("SELECT pg_terminate_backend(%s, 5000)", (backend,))
            await connection.execute(text("SELECT 1"))

    with capture_logs() as logs, pytest.raises(WireroomError) as caught:
        await killed()
    assert (caught.value.kind, caught.value.code) == (ErrorKind.UNAVAILABLE, "database_unavailable")
    assert [entry["error"] for entry in logs] == ["AdminShutdown: terminating connection due to administrator command"]
    await database.ping()


async def test_unknown_role_is_unavailable_and_named_in_the_log(postgres_url: str) -> None:
    database = Database(DatabaseUrl.parse(postgres_url, "not-the-password"), "nobody_made_this")
    with capture_logs() as logs, pytest.raises(WireroomError) as caught:
        await database.ping()
    await database.close()
    assert (caught.value.kind, caught.value.code) == (ErrorKind.UNAVAILABLE, "database_unavailable")
    assert "nobody_made_this" not in caught.value.detail
    (entry,) = logs
    assert (entry["log_level"], entry["service"]) == ("warning", "nobody_made_this")
    assert 'role "nobody_made_this_system" does not exist' in entry["error"] or "authentication failed" in entry["error"]
    assert "not-the-password" not in str(logs)


async def test_exhausted_pool_is_busy(database: Database, fresh_database_url: str) -> None:
    small = Database(DatabaseUrl.parse(fresh_database_url), "demo", pool_size=1, max_overflow=0, pool_timeout=0.05)
    tenant = uuid4()
    with capture_logs() as logs, pytest.raises(WireroomError) as caught:
        async with small.tenant(tenant), small.tenant(tenant):
            raise AssertionError("there is one connection only")
    await small.close()
    assert (caught.value.kind, caught.value.code) == (ErrorKind.UNAVAILABLE, "database_busy")
    # The outer transaction does not say it a second time.
    assert [entry["error"].partition(":")[0] for entry in logs] == ["TimeoutError"]


@pytest.mark.parametrize("state", ["08006", "57P01", "57P02", "57P03", "57P05", "53300"])
async def test_server_that_goes_away_is_unavailable(database: Database, state: str) -> None:
    error, _cause = await fail_with(database, raising(state))
    assert (error.kind, error.code) == (ErrorKind.UNAVAILABLE, "database_unavailable")


@pytest.mark.parametrize("state", ["53100", "53200", "28P01", "28000", "58030", "57P04", "23505", "XX000"])
async def test_other_failures_stay_what_they_are(database: Database, state: str) -> None:
    with capture_logs() as logs, pytest.raises(DBAPIError) as caught:
        async with database.system() as connection:
            await connection.execute(text(raising(state)))
    assert isinstance(caught.value.orig, psycopg.Error)
    assert caught.value.orig.sqlstate == state
    assert logs == []


def raising(state: str) -> str:
    return f"DO $$ BEGIN RAISE EXCEPTION 'as if' USING ERRCODE = '{state}'; END $$"
