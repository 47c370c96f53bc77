"""Prepared transactions on a real PostgreSQL: the same isolation and all-or-nothing as the others, and failures that mean the same."""

from __future__ import annotations

import asyncio
import os
import socket
from contextlib import AsyncExitStack, ExitStack, nullcontext
from uuid import UUID, uuid4

import psycopg
import pytest
from sqlalchemy import text
from structlog.testing import capture_logs

from wireroom_common.db import Database, DatabaseUrl
from wireroom_common.db.prepared import Statement
from wireroom_common.db.schema import system_table, tenant_table
from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_common.testing.plugin import MakeDatabase
from wireroom_common.testing.polling import eventually

DDL = [
    "CREATE TABLE demo.things (tenant_id uuid NOT NULL, id int NOT NULL, note text NOT NULL, PRIMARY KEY (tenant_id, id))",
    *tenant_table("demo", "things"),
    "CREATE TABLE demo.leases (name text PRIMARY KEY)",
    *system_table("demo", "leases"),
]
INSERT = Statement("INSERT INTO things VALUES (CAST($1 AS uuid), CAST($2 AS int), $3)")
NUMBERS = Statement("SELECT id FROM things ORDER BY id")
BACKEND = Statement("SELECT pg_backend_pid()")
OURS, THEIRS = uuid4(), uuid4()


@pytest.fixture
async def database(make_database: MakeDatabase) -> Database:
    return await make_database("demo", DDL)


async def insert(database: Database, tenant: UUID, number: int, note: str = "") -> None:
    async with database.prepared_tenant(tenant) as transaction:
        transaction.add(INSERT, str(tenant), str(number), note)


async def numbers(database: Database, tenant: UUID) -> list[bytes]:
    async with database.prepared_tenant(tenant) as transaction:
        return await transaction.run(NUMBERS)


async def test_tenants_see_and_write_only_their_own_rows_on_one_connection(database: Database) -> None:
    await insert(database, OURS, 1)
    await insert(database, THEIRS, 2)
    assert (await numbers(database, OURS), await numbers(database, THEIRS)) == ([b"1"], [b"2"])
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="row-level security"):
        async with database.prepared_tenant(OURS) as transaction:
            transaction.add(INSERT, str(THEIRS), "3", "")
    # The setting ended with its transaction: on the same connection nothing is to be seen without one.
    async with database._prepared_app.transaction() as transaction:  # noqa: SLF001 - a transaction without a tenant
        assert await transaction.run(NUMBERS) == []
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="permission denied"):
        async with database.prepared_system() as transaction:
            await transaction.run(NUMBERS)


async def test_nothing_stays_of_a_block_that_raises_or_is_cancelled(database: Database) -> None:
    inside = asyncio.Event()

    async def raising() -> None:
        async with database.prepared_tenant(OURS) as transaction:
            transaction.add(INSERT, str(OURS), "1", "")
            assert await transaction.run(NUMBERS) == [b"1"]
            raise LookupError

    async def twice() -> None:
        async with database.prepared_tenant(OURS) as transaction:
            transaction.add(INSERT, str(OURS), "2", "")
            transaction.add(INSERT, str(OURS), "2", "")

    async def cancelled() -> None:
        async with database.prepared_tenant(OURS) as transaction:
            transaction.add(INSERT, str(OURS), "3", "")
            await transaction.run(NUMBERS)
            inside.set()
            await asyncio.Event().wait()

    with pytest.raises(LookupError):
        await raising()
    with pytest.raises(psycopg.errors.UniqueViolation):
        await twice()
    task = asyncio.create_task(cancelled())
    await inside.wait()
    task.cancel()
    assert (await asyncio.gather(task, return_exceptions=True))[0].__class__ is asyncio.CancelledError
    assert await numbers(database, OURS) == []


async def test_a_later_statement_sees_the_earlier_and_all_commit_together(database: Database) -> None:
    async with database.prepared_tenant(OURS) as transaction:
        transaction.add(INSERT, str(OURS), "1", "")
        assert await transaction.run(NUMBERS) == [b"1"]
        assert await numbers(database, OURS) == []
        assert await transaction.run(NUMBERS) == [b"1"]
        transaction.add(INSERT, str(OURS), "2", "")
    assert await numbers(database, OURS) == [b"1", b"2"]


async def test_more_than_the_socket_takes_at_once_arrives(database: Database) -> None:
    """Both directions are full at the same time: what is sent is also read back."""
    note = "ü" * 3_000_000
    echo = Statement("SELECT $1 || ''")
    async with database.prepared_tenant(OURS) as transaction:
        transaction.add(echo, note)
        transaction.add(INSERT, str(OURS), "1", note)
        assert await transaction.run(echo, note) == [note.encode()]
    assert await numbers(database, OURS) == [b"1"]


async def test_parallel_transactions_each_have_their_tenant(database: Database) -> None:
    tenants = [uuid4() for _ in range(40)]
    await asyncio.gather(*(insert(database, tenant, number) for number, tenant in enumerate(tenants)))
    found = await asyncio.gather(*(numbers(database, tenant) for tenant in tenants))
    assert found == [[str(number).encode()] for number in range(len(tenants))]


async def system(database: Database, statement: Statement) -> bytes:
    async with database.prepared_system() as transaction:
        [value] = await transaction.run(statement)
    return value


@pytest.mark.parametrize("idle", [True, False])
async def test_killed_backend_is_unavailable_and_the_next_transaction_works(
    database: Database, fresh_database_url: str, *, idle: bool
) -> None:
    def kill(backend: bytes) -> None:
        with psycopg.connect(fresh_database_url, autocommit=True) as admin:
            # It says true when the process has ended, and gives up after the time.
            assert admin.execute("SELECT pg_terminate_backend(%s, 30000)", (int(backend),)).fetchone() == (True,)

    async def killed(backend: bytes) -> None:
        await asyncio.gather(system(database, Statement("SELECT pg_sleep(60)")), asyncio.to_thread(kill, backend))

    first = await system(database, BACKEND)
    if idle:
        await asyncio.to_thread(kill, first)
    else:
        with capture_logs() as logs, pytest.raises(WireroomError) as caught:
            await killed(first)
        assert (caught.value.kind, caught.value.code) == (ErrorKind.UNAVAILABLE, "database_unavailable")
        assert [entry["error"] for entry in logs] == ["AdminShutdown: terminating connection due to administrator command"]
    assert await system(database, BACKEND) != first


@pytest.mark.parametrize("idle", [True, False])
async def test_lost_connection_leaves_the_number_of_its_socket_to_others(
    database: Database, fresh_database_url: str, *, idle: bool
) -> None:
    """libpq closes the socket of a connection that it loses: whoever opens one next gets its number, and is watched under it."""
    heard = asyncio.Event()
    loop = asyncio.get_running_loop()

    def kill() -> None:
        with psycopg.connect(fresh_database_url, autocommit=True) as admin:
            admin.execute("SELECT pg_terminate_backend(%s, 5000)", (int(backend),))

    with ExitStack() as stack:
        async with AsyncExitStack() as using:
            transaction = await using.enter_async_context(database._prepared_system.transaction())  # noqa: SLF001 - its socket is private
            [backend] = await transaction.run(BACKEND)
            connection = transaction._connection  # noqa: SLF001 - as above
            if idle:
                await using.aclose()
            await asyncio.to_thread(kill)
            await eventually(lambda: connection.lost is not None)
            ours, theirs = (stack.enter_context(end) for end in socket.socketpair())
            number = connection._socket  # noqa: SLF001 - as above
            with pytest.raises(OSError, match="Bad file descriptor") if number != ours.fileno() else nullcontext():
                os.fstat(number)
            if number != ours.fileno():
                os.dup2(ours.fileno(), number)
                stack.callback(os.close, number)
            loop.add_reader(number, heard.set)
            stack.callback(loop.remove_reader, number)
            if not idle:
                with pytest.raises(psycopg.OperationalError):
                    await using.aclose()
        assert await system(database, BACKEND) != backend
        theirs.send(b"x")
        async with asyncio.timeout(10):
            await heard.wait()


async def test_timeouts_and_missing_servers_are_unavailable(database: Database, fresh_database_url: str) -> None:
    hasty = Database(DatabaseUrl.parse(fresh_database_url), "demo", statement_timeout=0.05)
    with pytest.raises(WireroomError) as caught:
        await system(hasty, Statement("SELECT pg_sleep(60)"))
    await hasty.close()
    assert caught.value.code == "database_busy"
    with pytest.raises(WireroomError) as caught:
        await system(Database(DatabaseUrl.parse("postgresql://127.0.0.1:1/none"), "demo"), BACKEND)
    assert caught.value.code == "database_unavailable"


@pytest.mark.usefixtures("database")
async def test_exhausted_connections_are_busy(fresh_database_url: str) -> None:
    small = Database(DatabaseUrl.parse(fresh_database_url), "demo", pool_timeout=0.05)
    all_hold = asyncio.Barrier(6)

    async def hold(number: int) -> str:
        try:
            async with small.prepared_system() as transaction:
                await transaction.run(BACKEND)
                await all_hold.wait()
        except WireroomError as error:
            await all_hold.wait()
            return error.code
        return f"held {number}"

    outcomes = await asyncio.gather(*(hold(number) for number in range(6)))
    await small.close()
    assert min(outcomes) == "database_busy"
    assert len([outcome for outcome in outcomes if outcome.startswith("held")]) == len(outcomes) - 1


async def test_connection_in_use_is_closed_when_it_is_given_back_after_close(database: Database) -> None:
    async with database.prepared_tenant(OURS) as transaction:
        (pid,) = await transaction.run(BACKEND)
        await database.close()
        transaction.add(INSERT, str(OURS), "1", "")

    async def gone() -> bool:
        async with database.prepared_tenant(OURS) as other:
            return await other.run(Statement("SELECT pid FROM pg_stat_activity WHERE pid = CAST($1 AS int)"), pid.decode()) == []

    await eventually(gone)
    assert await numbers(database, OURS) == [b"1"]


@pytest.mark.parametrize("prepared", [True, False], ids=["prepared", "ordinary"])
@pytest.mark.parametrize("statement", ["text", "json"])
async def test_text_with_nul_is_invalid_and_nothing_is_stored(database: Database, prepared: bool, statement: str) -> None:  # noqa: FBT001 - parameter of the test
    note = "a\0b" if statement == "text" else '{"key": "a\\u0000b"}'
    stored = "$3" if statement == "text" else "CAST($3 AS jsonb)->>'key'"
    sql = f"INSERT INTO things VALUES (CAST($1 AS uuid), CAST($2 AS int), {stored})"  # noqa: S608 - constants

    async def write() -> None:
        if prepared:
            async with database.prepared_tenant(OURS) as transaction:
                transaction.add(INSERT, str(OURS), "1", "before")
                transaction.add(Statement(sql), str(OURS), "2", note)
            return
        async with database.tenant(OURS) as connection:
            values = {"one": str(OURS), "two": "2", "three": note}
            named = sql.replace("$1", ":one").replace("$2", ":two").replace("$3", ":three")
            await connection.execute(text(named), values)

    with pytest.raises(WireroomError) as caught:
        await write()
    assert (caught.value.kind, caught.value.code) == (ErrorKind.INVALID, "text_contains_nul")
    assert await numbers(database, OURS) == []
