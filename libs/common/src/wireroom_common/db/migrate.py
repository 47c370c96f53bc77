"""Roles, schemas and migrations: run by one process at a time, however many start.

A service keeps its alembic revisions in `wireroom_<svc>/migrations/versions` and an `env.py` beside them that calls `run_env()`.
"""

from __future__ import annotations

import asyncio
import importlib.resources
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, create_engine, text
from sqlalchemy.exc import ProgrammingError
from sqlalchemy.pool import NullPool

from wireroom_common.db.database import Database, DatabaseUrl
from wireroom_common.db.schema import service_roles
from wireroom_common.errors import ErrorKind, WireroomError

# Alembic is loaded where it is needed: 15 MB that a process without a database of its own has no use for.
if TYPE_CHECKING:
    from alembic.config import Config

# Any constant of our own; the second key is the schema's name hashed by PostgreSQL.
_LOCK_NAMESPACE = 0x57524D
_LOCK_TIMEOUT = "60s"


def bootstrap(admin_url: DatabaseUrl, services: Sequence[str], *, password: str | None = None) -> None:
    """As an administrator: roles, schemas and the `vector` extension. Idempotent; concurrent callers wait for each other."""
    engine = create_engine(admin_url.url.set(password=admin_url.password), poolclass=NullPool)
    with engine.begin() as connection:
        connection.execute(text(f"SET LOCAL lock_timeout = '{_LOCK_TIMEOUT}'"))
        # Roles belong to the cluster, not to the database: one lock for all databases needs a shared object, so catch duplicates instead.
        connection.execute(text("SELECT pg_advisory_xact_lock(:namespace, 0)"), {"namespace": _LOCK_NAMESPACE})
        connection.execute(text("CREATE EXTENSION IF NOT EXISTS vector SCHEMA public"))
        connection.execute(text("REVOKE CREATE ON SCHEMA public FROM PUBLIC"))
        for service in services:
            for statement in service_roles(service, password):
                connection.exec_driver_sql(statement)
    engine.dispose()


def upgrade(url: DatabaseUrl, service: str) -> None:
    """Bring `service`'s schema to the newest revision as `<svc>_owner`, under an advisory lock (others wait at most 60 s)."""
    from alembic import command  # noqa: PLC0415 - see above

    _with_config(url, service, lambda config: command.upgrade(config, "head"))


def downgrade(url: DatabaseUrl, service: str, revision: str = "base") -> None:
    """Take `service`'s schema back to `revision`."""
    from alembic import command  # noqa: PLC0415 - see above

    _with_config(url, service, lambda config: command.downgrade(config, revision))


def head_revision(service: str) -> str | None:
    """The newest revision this code knows."""
    from alembic.script import ScriptDirectory  # noqa: PLC0415 - see above

    return ScriptDirectory.from_config(_config(service)).get_current_head()


async def require_current(database: Database) -> None:
    """UNAVAILABLE while the schema is not at the newest revision this code knows (a migration is running or was not run)."""
    head = await asyncio.to_thread(head_revision, database.service)
    try:
        async with database.system() as connection:
            found = (await connection.execute(text("SELECT version_num FROM alembic_version"))).scalar_one_or_none()
    except ProgrammingError:
        # No such table, or not yet readable: no migration has finished here.
        found = None
    if found != head:
        raise WireroomError(
            ErrorKind.UNAVAILABLE,
            "schema_not_current",
            f"The schema '{database.service}' is not the one this version needs: run `wireroom migrate`.",
        )


def _config(service: str) -> Config:
    from alembic.config import Config  # noqa: PLC0415 - see above

    config = Config()
    location = Path(str(importlib.resources.files(f"wireroom_{service}"))) / "migrations"
    config.set_main_option("script_location", str(location).replace("%", "%%"))
    return config


def _with_config(url: DatabaseUrl, service: str, action: Any) -> None:
    config = _config(service)
    engine = create_engine(url.as_role(f"{service}_owner"), poolclass=NullPool)
    with engine.connect() as connection:
        connection.execute(text(f"SET lock_timeout = '{_LOCK_TIMEOUT}'"))
        lock = {"namespace": _LOCK_NAMESPACE, "schema": service}
        connection.execute(text("SELECT pg_advisory_lock(:namespace, hashtext(:schema))"), lock)
        connection.commit()
        try:
            config.attributes["connection"] = connection
            config.attributes["schema"] = service
            action(config)
            connection.exec_driver_sql(f"GRANT SELECT ON {service}.alembic_version TO {service}_system")
            connection.commit()
        finally:
            connection.rollback()
            connection.execute(text("SELECT pg_advisory_unlock(:namespace, hashtext(:schema))"), lock)
            connection.commit()
    engine.dispose()


def run_env() -> None:
    """The body of each service's `migrations/env.py`."""
    from alembic import context  # noqa: PLC0415 - see above

    connection: Connection = context.config.attributes["connection"]
    schema: str = context.config.attributes["schema"]
    connection.exec_driver_sql(f"SET search_path = {schema}, public")
    connection.commit()
    context.configure(connection=connection, version_table_schema=schema, transaction_per_migration=True)
    with context.begin_transaction():
        context.run_migrations()
