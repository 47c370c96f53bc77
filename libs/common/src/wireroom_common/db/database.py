"""Transactions on PostgreSQL, each bound to one tenant or, on named tables only, to the service itself.

There is no way to a connection that skips the choice: `tenant(id)` runs as `<svc>_app`, whose row-level security policies
show only that tenant's rows; `system()` runs as `<svc>_system`, which is granted the few tables that are read before a tenant
is known (login, key lookup, outbox relay, leases).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from uuid import UUID

import psycopg
import structlog
from sqlalchemy import text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import QueuePool

from wireroom_common.db.prepared import NoConnectionError, PreparedConnections, PreparedTransaction, Statement, nul_in_text
from wireroom_common.error_text import describe_error
from wireroom_common.errors import ErrorKind, WireroomError

TENANT_SETTING = "wireroom.tenant"
# Connections of each role for prepared transactions, beside the pools.
PREPARED_CONNECTIONS = 5
_SET_TENANT = Statement(f"SELECT set_config('{TENANT_SETTING}', $1, true)")

# SQLSTATEs of a server that is going away, coming up or full, beside class 08 (connection exceptions): shutdown by the
# administrator, after a crash, not yet accepting, idle session ended, too many connections.
_AWAY = frozenset({"57P01", "57P02", "57P03", "57P05", "53300"})
# SQLSTATEs of a transaction that was given up and may be tried again as it was: statement timeout, serialization failure,
# deadlock, lock timeout.
_BUSY = frozenset({"57014", "40001", "40P01", "55P03"})

_log = structlog.get_logger("wireroom.db")


@dataclass(frozen=True)
class DatabaseUrl:
    """Where the server and database are; the user is always one of the service's roles."""

    url: URL
    password: str | None = None

    @classmethod
    def parse(cls, url: str, password: str | None = None) -> DatabaseUrl:
        """From `postgresql://host:port/name?…`; a user in the URL is ignored, its password is the default for the roles."""
        parsed = make_url(url).set(drivername="postgresql+psycopg")
        return cls(parsed, password if password is not None else parsed.password)

    def as_role(self, role: str) -> URL:
        """The URL for `role`."""
        return self.url.set(username=role, password=self.password)


class Database:
    """The connections of one service. Opens nothing until first used; `close()` ends its pools."""

    def __init__(
        self,
        url: DatabaseUrl,
        service: str,
        *,
        pool_size: int = 5,
        max_overflow: int = 5,
        pool_timeout: float = 10.0,
        statement_timeout: float = 30.0,
    ) -> None:
        self.service = service
        self.schema = service
        self._url = url
        options = (
            f"-c search_path={service},public -c statement_timeout={int(statement_timeout * 1000)}"
            " -c idle_in_transaction_session_timeout=60000 -c timezone=UTC"
        )

        def engine(role: str, size: int, overflow: int) -> AsyncEngine:
            return create_async_engine(
                url.as_role(role),
                pool_size=size,
                max_overflow=overflow,
                pool_timeout=pool_timeout,
                pool_recycle=1800,
                pool_pre_ping=False,
                # Values (hashes, addresses, payloads) must not reach logs through the text of database errors.
                hide_parameters=True,
                connect_args={"options": options, "connect_timeout": 5, "application_name": f"wireroom-{service}"},
            )

        def prepared(role: str) -> PreparedConnections:
            return PreparedConnections(
                self._conninfo(role),
                {"options": options, "connect_timeout": 5, "application_name": f"wireroom-{service}"},
                size=PREPARED_CONNECTIONS,
                wait=pool_timeout,
                statement_timeout=statement_timeout,
            )

        system_size = max(2, pool_size // 2)
        self._app = engine(f"{service}_app", pool_size, max_overflow)
        self._system = engine(f"{service}_system", system_size, max_overflow)
        # What stays open once it was needed, and what may be open at most, each with the one on which the relay listens.
        self.connections_kept = pool_size + system_size + 1
        self.connections_most = self.connections_kept + 2 * (max_overflow + PREPARED_CONNECTIONS)
        self._prepared_app = prepared(f"{service}_app")
        self._prepared_system = prepared(f"{service}_system")

    @asynccontextmanager
    async def tenant(self, tenant_id: UUID, settings: Mapping[str, str] | None = None) -> AsyncIterator[AsyncConnection]:
        """One transaction that sees and writes only `tenant_id`'s rows. Commits at the end, rolls back on any exception.

        `settings` are the service's own, for policies of its tables; they end with the transaction.
        """
        stated = {TENANT_SETTING: str(tenant_id), **(settings or {})}
        calls = ", ".join(f"set_config(:name{place}, :value{place}, true)" for place in range(len(stated)))
        values = {f"name{place}": name for place, name in enumerate(stated)}
        values |= {f"value{place}": value for place, value in enumerate(stated.values())}
        async with _translated(self.service), self._app.begin() as connection:
            await connection.execute(text(f"SELECT {calls}"), values)
            yield connection

    @asynccontextmanager
    async def system(self) -> AsyncIterator[AsyncConnection]:
        """One transaction as the service itself, on the tables granted to it."""
        async with _translated(self.service), self._system.begin() as connection:
            yield connection

    @asynccontextmanager
    async def prepared_tenant(self, tenant_id: UUID) -> AsyncIterator[PreparedTransaction]:
        """As `tenant`, for statements that run for every answer: no more than what `Statement` can do."""
        async with _translated(self.service), self._prepared_app.transaction() as transaction:
            transaction.add(_SET_TENANT, str(tenant_id))
            yield transaction

    @asynccontextmanager
    async def prepared_system(self) -> AsyncIterator[PreparedTransaction]:
        """As `system`, likewise."""
        async with _translated(self.service), self._prepared_system.transaction() as transaction:
            yield transaction

    @property
    def connections_open(self) -> int:
        """Connections of the pools that are open now."""
        prepared = self._prepared_app.open + self._prepared_system.open
        pools = [engine.pool for engine in (self._app, self._system)]
        return prepared + sum(pool.checkedin() + pool.checkedout() for pool in pools if isinstance(pool, QueuePool))

    def listen_conninfo(self) -> str:
        """A libpq connection string of the system role, for LISTEN on a connection of one's own."""
        return self._conninfo(f"{self.service}_system")

    def _conninfo(self, role: str) -> str:
        return self._url.as_role(role).set(drivername="postgresql").render_as_string(hide_password=False)

    async def ping(self) -> None:
        """Raise unless the database answers."""
        async with self.system() as connection:
            await connection.execute(text("SELECT 1"))

    async def refuse_dangerous_role(self) -> None:
        """Raise when a role could bypass row-level security: superuser, BYPASSRLS, or owner of the schema's tables."""
        for engine in (self._app, self._system):
            async with _translated(self.service), engine.begin() as connection:
                row = (
                    await connection.execute(
                        text(
                            "SELECT r.rolname, r.rolsuper OR r.rolbypassrls OR EXISTS (SELECT 1 FROM pg_class c"
                            " JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = :schema AND c.relowner = r.oid)"
                            " FROM pg_roles r WHERE r.rolname = current_user"
                        ),
                        {"schema": self.schema},
                    )
                ).one()
                if row[1]:
                    msg = (
                        f"The database role '{row[0]}' could bypass row-level security (superuser, BYPASSRLS or owner);"
                        " refusing to start."
                    )
                    raise RuntimeError(msg)

    async def close(self) -> None:
        """Close all connections."""
        await self._app.dispose()
        await self._system.dispose()
        self._prepared_app.close()
        self._prepared_system.close()


@asynccontextmanager
async def _translated(service: str) -> AsyncIterator[None]:
    """Turn 'no connection to be had' and 'given up, try again' into UNAVAILABLE, and log the cause; a text with NUL is INVALID.

    All other errors stay.

    A server that refuses a connection gives no SQLSTATE, whatever its reason (a wrong password, an unknown role): only the log tells.
    """
    try:
        yield
    except (PoolTimeoutError, NoConnectionError) as error:
        raise _logged(service, error, _busy("All database connections are in use; try again shortly.")) from error
    except (DBAPIError, psycopg.Error) as error:
        if _is_about_nul(error):
            raise nul_in_text() from error
        answer = _unavailability(error)
        if answer is None:
            raise
        raise _logged(service, error, answer) from error


def _is_about_nul(error: DBAPIError | psycopg.Error) -> bool:
    cause = error.orig if isinstance(error, DBAPIError) else error
    if not isinstance(cause, psycopg.DataError):
        return False
    # The driver refuses a parameter by itself, without SQLSTATE; the server tells of `\u0000` in JSON.
    return (cause.sqlstate is None and "NUL" in str(cause)) or cause.sqlstate == "22P05"


def _unavailability(error: DBAPIError | psycopg.Error) -> WireroomError | None:
    cause = error.orig if isinstance(error, DBAPIError) else error
    state = cause.sqlstate if isinstance(cause, psycopg.Error) else None
    if state in _BUSY:
        return _busy("The database gave the operation up because of others or because it took too long; try again shortly.")
    gone = isinstance(error, DBAPIError) and error.connection_invalidated
    refused = state is None and isinstance(cause, psycopg.OperationalError)
    if refused or gone or (state is not None and (state in _AWAY or state.startswith("08"))):
        return WireroomError(
            ErrorKind.UNAVAILABLE, "database_unavailable", "The database does not answer; try again shortly.", retry_after=2
        )
    return None


def _busy(detail: str) -> WireroomError:
    return WireroomError(ErrorKind.UNAVAILABLE, "database_busy", detail, retry_after=1)


def _logged(service: str, cause: BaseException, answer: WireroomError) -> WireroomError:
    _log.warning(answer.code, service=service, error=describe_error(cause))
    return answer
