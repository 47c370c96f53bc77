"""pytest fixtures: real PostgreSQL and Valkey, private to the test run. Load with `-p wireroom_common.testing.plugin`."""

from __future__ import annotations

import os
import secrets
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
from wireroom_common.testing.folders import server_folder
from wireroom_common.testing.rabbitmq import rabbitmq_node, rabbitmq_url

__all__ = ["rabbitmq_node", "rabbitmq_url"]  # Fixtures defined there, offered here.

MakeDatabase = Callable[[str, Sequence[str]], Awaitable[Database]]
MigratedDatabase = Callable[[str], Awaitable[Database]]


@pytest.fixture(scope="session")
def server_dir() -> Iterator[Path]:
    """A folder for servers' data that their system user may enter; removed at the end."""
    with server_folder("wrtest") as path:
        yield path


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


def _server(postgres_url: str) -> str:
    return DatabaseUrl.parse(postgres_url).url.set(drivername="postgresql").render_as_string(hide_password=False)


def _copy_migrated(postgres_url: str, target: DatabaseUrl, service: str, templates: dict[str, str]) -> None:
    identifier = psycopg.sql.Identifier
    with psycopg.connect(_server(postgres_url), autocommit=True) as connection:
        if service not in templates:
            name = f"m_{service}_{secrets.token_hex(6)}"
            connection.execute(psycopg.sql.SQL("CREATE DATABASE {}").format(identifier(name)))
            templates[service] = name
            template = DatabaseUrl.parse(target.url.set(database=name).render_as_string(hide_password=False))
            bootstrap(template, [service])
            upgrade(template, service)
        database = identifier(str(target.url.database))
        # A copy of the files: half the work of writing every page to the log as well.
        create = psycopg.sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY file_copy")
        connection.execute(create.format(database, identifier(templates[service])))


@pytest.fixture
def fresh_database_url(postgres_url: str, request: pytest.FixtureRequest) -> Iterator[str]:
    """Administrator's URL of an empty database of its own, dropped after the test.

    In a test with `migrated_database` the URL of the database that it makes, which is not there before.
    """
    name = f"t_{secrets.token_hex(6)}"
    parsed = DatabaseUrl.parse(postgres_url)
    server = _server(postgres_url)
    if "migrated_database" not in request.fixturenames:
        with psycopg.connect(server, autocommit=True) as connection:
            connection.execute(psycopg.sql.SQL("CREATE DATABASE {}").format(psycopg.sql.Identifier(name)))
    yield parsed.url.set(drivername="postgresql", database=name).render_as_string(hide_password=False)
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(psycopg.sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(psycopg.sql.Identifier(name)))


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


@pytest.fixture(scope="session")
def migrated_templates(postgres_url: str) -> Iterator[dict[str, str]]:
    """Names of databases with all migrations of a service, by service; made when first asked for."""
    templates: dict[str, str] = {}
    yield templates
    with psycopg.connect(_server(postgres_url), autocommit=True) as connection:
        for name in templates.values():
            connection.execute(psycopg.sql.SQL("DROP DATABASE {} WITH (FORCE)").format(psycopg.sql.Identifier(name)))


@pytest_asyncio.fixture
async def migrated_database(
    postgres_url: str, fresh_database_url: str, migrated_templates: dict[str, str]
) -> AsyncIterator[MigratedDatabase]:
    """`await migrated_database("auth")`: the service's schema after all its migrations, and its `Database`."""
    opened: list[Database] = []
    url = DatabaseUrl.parse(fresh_database_url)

    async def make(service: str) -> Database:
        if opened:
            bootstrap(url, [service])
            upgrade(url, service)
        else:
            # The first service's database is a copy: migrations take seconds, and every test wants them.
            _copy_migrated(postgres_url, url, service, migrated_templates)
        database = Database(url, service)
        opened.append(database)
        return database

    yield make
    for database in opened:
        await database.close()
