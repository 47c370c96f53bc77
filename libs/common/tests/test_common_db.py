"""Row-level security and migrations, on a real server."""

from __future__ import annotations

import asyncio
from uuid import UUID, uuid4

import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.exc import ProgrammingError

from wireroom_common.db import Database, DatabaseUrl
from wireroom_common.db.migrate import bootstrap
from wireroom_common.db.schema import messaging_tables, system_table, tenant_table
from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_common.testing.plugin import MakeDatabase

DDL = [
    "CREATE TABLE demo.things (tenant_id uuid NOT NULL, id int NOT NULL, PRIMARY KEY (tenant_id, id))",
    *tenant_table("demo", "things"),
    "CREATE TABLE demo.leases (name text PRIMARY KEY)",
    *system_table("demo", "leases"),
    *messaging_tables("demo"),
]


async def insert(database: Database, tenant: UUID, row_tenant: UUID, number: int) -> None:
    async with database.tenant(tenant) as connection:
        await connection.execute(text("INSERT INTO things VALUES (:tenant, :id)"), {"tenant": row_tenant, "id": number})


async def test_tenants_see_and_write_only_their_own_rows(make_database: MakeDatabase) -> None:
    database = await make_database("demo", DDL)
    ours, theirs = uuid4(), uuid4()
    await insert(database, ours, ours, 1)
    await insert(database, theirs, theirs, 2)
    with pytest.raises(ProgrammingError, match="row-level security"):
        await insert(database, ours, theirs, 3)
    async with database.tenant(ours) as connection:
        assert (await connection.execute(text("SELECT id FROM things"))).scalars().all() == [1]
        assert (await connection.execute(text("DELETE FROM things WHERE id = 2"))).rowcount == 0
    async with database.tenant(theirs) as connection:
        assert (await connection.execute(text("SELECT id FROM things"))).scalars().all() == [2]


async def test_roles_reach_only_what_they_are_granted(make_database: MakeDatabase) -> None:
    database = await make_database("demo", DDL)
    with pytest.raises(ProgrammingError, match="permission denied"):
        async with database.system() as connection:
            await connection.execute(text("SELECT * FROM things"))
    with pytest.raises(ProgrammingError, match="permission denied"):
        async with database.tenant(uuid4()) as connection:
            await connection.execute(text("SELECT * FROM leases"))
    with pytest.raises(ProgrammingError, match="permission denied"):
        async with database.tenant(uuid4()) as connection:
            await connection.execute(text("SELECT data FROM outbox"))


async def test_tenant_setting_does_not_leak_into_the_next_transaction(make_database: MakeDatabase) -> None:
    database = await make_database("demo", DDL)
    ours = uuid4()
    await insert(database, ours, ours, 1)
    async with database._app.connect() as connection, connection.begin():  # noqa: SLF001 - the pool's connection without a tenant
        assert (await connection.execute(text("SELECT count(*) FROM things"))).scalar_one() == 0


async def test_service_refuses_to_run_with_a_role_that_bypasses_policies(
    make_database: MakeDatabase, fresh_database_url: str
) -> None:
    database = await make_database("demo", DDL)
    await database.refuse_dangerous_role()
    with psycopg.connect(fresh_database_url, autocommit=True) as admin:
        admin.execute("ALTER ROLE demo_app BYPASSRLS")
        try:
            with pytest.raises(RuntimeError, match="bypass row-level security"):
                await database.refuse_dangerous_role()
        finally:
            admin.execute("ALTER ROLE demo_app NOBYPASSRLS")


async def test_database_that_is_away_is_unavailable() -> None:
    database = Database(DatabaseUrl.parse("postgresql://127.0.0.1:1/none"), "demo")
    with pytest.raises(WireroomError) as caught:
        await database.ping()
    assert caught.value.kind is ErrorKind.UNAVAILABLE
    await database.close()


async def test_concurrent_bootstraps_agree(fresh_database_url: str) -> None:
    url = DatabaseUrl.parse(fresh_database_url)
    await asyncio.gather(*(asyncio.to_thread(bootstrap, url, ["demo", "other"]) for _ in range(4)))
