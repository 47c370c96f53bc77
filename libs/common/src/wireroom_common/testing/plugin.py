"""pytest fixtures: real PostgreSQL and Valkey, private to the test run. Load with `-p wireroom_common.testing.plugin`."""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from pathlib import Path

import psycopg
import pytest
import pytest_asyncio
import redis
from sqlalchemy import create_engine
from sqlalchemy.pool import NullPool

from wireroom_common.db import Database, DatabaseUrl
from wireroom_common.db.migrate import bootstrap, upgrade
from wireroom_common.runtime.embedded import EmbeddedPostgres, EmbeddedValkey
from wireroom_common.testing.rabbitmq import rabbitmq_node, rabbitmq_url

__all__ = ["rabbitmq_node", "rabbitmq_url"]  # Fixtures defined there, offered here.

MakeDatabase = Callable[[str, Sequence[str]], Awaitable[Database]]
MigratedDatabase = Callable[[str], Awaitable[Database]]


@pytest.fixture(scope="session")
def server_dir() -> Iterator[Path]:
    """A folder for servers' data that their system user may enter; removed at the end."""
    path = Path(tempfile.mkdtemp(prefix="wrtest"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres_url(server_dir: Path) -> Iterator[str]:
    """Administrator's URL of a PostgreSQL server: `WIREROOM_TEST_DATABASE_URL` if set, else one from the wheel."""
    given = os.environ.get("WIREROOM_TEST_DATABASE_URL")
    if given:
        yield given
        return
    server = EmbeddedPostgres(server_dir, durable=False)
    url = server.start("template_wireroom")
    yield server.admin_url(url)
    server.stop()


@pytest.fixture(scope="session")
def valkey_url(server_dir: Path) -> Iterator[str]:
    """URL of a Redis-compatible server: `WIREROOM_TEST_REDIS_URL` if set, else Valkey from the wheel."""
    given = os.environ.get("WIREROOM_TEST_REDIS_URL")
    if given:
        yield given
        return
    server = EmbeddedValkey(server_dir)
    yield server.start()
    server.stop()


@pytest.fixture
def clean_valkey_url(valkey_url: str) -> str:
    """`valkey_url`, emptied."""
    with redis.Redis.from_url(valkey_url) as client:
        client.flushall()
    return valkey_url


@pytest.fixture
def fresh_database_url(postgres_url: str) -> Iterator[str]:
    """Administrator's URL of an empty database of its own, dropped after the test."""
    name = f"t_{secrets.token_hex(6)}"
    parsed = DatabaseUrl.parse(postgres_url)
    server = parsed.url.set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(psycopg.sql.SQL("CREATE DATABASE {}").format(psycopg.sql.Identifier(name)))
    yield parsed.url.set(drivername="postgresql", database=name).render_as_string(hide_password=False)
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(psycopg.sql.SQL("DROP DATABASE {} WITH (FORCE)").format(psycopg.sql.Identifier(name)))


@pytest_asyncio.fixture
async def make_database(fresh_database_url: str) -> AsyncIterator[MakeDatabase]:
    """`await make_database(service, statements)`: roles and schema of `service`, the DDL run as its owner, and its `Database`.

    Several services of one test share one database, as in production.
    """
    opened: list[Database] = []
    url = DatabaseUrl.parse(fresh_database_url)

    async def make(service: str, statements: Sequence[str]) -> Database:
        bootstrap(url, [service])
        engine = create_engine(url.as_role(f"{service}_owner"), poolclass=NullPool)
        with engine.begin() as connection:
            for statement in statements:
                connection.exec_driver_sql(statement)
        engine.dispose()
        database = Database(url, service)
        opened.append(database)
        return database

    yield make
    for database in opened:
        await database.close()


@pytest_asyncio.fixture
async def migrated_database(fresh_database_url: str) -> AsyncIterator[MigratedDatabase]:
    """`await migrated_database("auth")`: the service's schema after all its migrations, and its `Database`."""
    opened: list[Database] = []
    url = DatabaseUrl.parse(fresh_database_url)

    async def make(service: str) -> Database:
        bootstrap(url, [service])
        upgrade(url, service)
        database = Database(url, service)
        opened.append(database)
        return database

    yield make
    for database in opened:
        await database.close()
