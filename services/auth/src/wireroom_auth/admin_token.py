"""The one-time admin token of an installation that has no operator yet."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from wireroom_auth.domain.credentials import digest, new_admin_token
from wireroom_auth.domain.identity import DEFAULT_TENANT
from wireroom_auth.domain.permissions import Role
from wireroom_common.clock import Clock
from wireroom_common.db import Database
from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_common.ids import new_id

_LOCK = "wireroom_auth.installation"
_WAITING = "SELECT EXISTS (SELECT 1 FROM installation WHERE admin_token_hash IS NOT NULL)"
_OPERATOR_EXISTS = "SELECT EXISTS (SELECT 1 FROM users WHERE roles @> ARRAY[CAST(:role AS text)])"


async def issue_first(database: Database, clock: Clock) -> str | None:
    """The one-time admin token of a new installation; None if one waits to be used already, or there is an operator.

    What was shown once therefore stays valid over restarts and beside other replicas. Makes the tenant `default` if it is missing.
    """
    async with _installation(database) as connection:
        if await _operator_exists(connection) or await connection.scalar(text(_WAITING)):
            return None
        return await _store(connection, clock)


async def issue(database: Database, clock: Clock) -> str:
    """A new one-time admin token, which replaces the one issued before; only its digest is stored.

    CONFLICT `admin_exists` once there is an operator. Concurrent callers wait for each other; the token of the last one counts.
    """
    async with _installation(database) as connection:
        if await _operator_exists(connection):
            raise WireroomError(
                ErrorKind.CONFLICT, "admin_exists", "This installation has an administrator already; sign in with that account."
            )
        return await _store(connection, clock)


@asynccontextmanager
async def _installation(database: Database) -> AsyncIterator[AsyncConnection]:
    """A transaction under the installation's lock: decided and stored by one process at a time."""
    async with database.system() as connection:
        await connection.execute(text("SELECT pg_advisory_xact_lock(hashtextextended(:lock, 0))"), {"lock": _LOCK})
        yield connection


async def _operator_exists(connection: AsyncConnection) -> bool:
    return bool(await connection.scalar(text(_OPERATOR_EXISTS), {"role": Role.PLATFORM_ADMIN}))


async def _store(connection: AsyncConnection, clock: Clock) -> str:
    token = new_admin_token()
    await connection.execute(
        text("INSERT INTO tenants (tenant_id, name, created_at) VALUES (:id, :name, :now) ON CONFLICT (name) DO NOTHING"),
        {"id": new_id(), "name": DEFAULT_TENANT, "now": clock.now()},
    )
    await connection.execute(
        text(
            "INSERT INTO installation (admin_token_hash, admin_token_issued_at) VALUES (:hash, :now) ON CONFLICT (singleton)"
            " DO UPDATE SET admin_token_hash = excluded.admin_token_hash, admin_token_issued_at = excluded.admin_token_issued_at"
        ),
        {"hash": digest(token), "now": clock.now()},
    )
    return token
