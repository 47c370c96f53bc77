"""The one-time admin token of an installation that has no operator yet."""

from __future__ import annotations

from sqlalchemy import text

from wireroom_auth.domain.credentials import digest, new_admin_token
from wireroom_auth.domain.identity import DEFAULT_TENANT
from wireroom_auth.domain.permissions import Role
from wireroom_common.clock import Clock
from wireroom_common.db import Database
from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_common.ids import new_id

_LOCK = "wireroom_auth.installation"
# The code of the error when there is an operator already.
ADMIN_EXISTS = "admin_exists"
_OPERATOR_EXISTS = "SELECT EXISTS (SELECT 1 FROM users WHERE roles @> ARRAY[CAST(:role AS text)])"


async def issue(database: Database, clock: Clock) -> str:
    """A new one-time admin token, which replaces the one issued before; only its digest is stored.

    Makes the tenant `default` if it is missing. CONFLICT `admin_exists` once there is an operator. Concurrent callers wait for each
    other; the token of the last one counts.
    """
    token = new_admin_token()
    async with database.system() as connection:
        await connection.execute(text("SELECT pg_advisory_xact_lock(hashtextextended(:lock, 0))"), {"lock": _LOCK})
        if (await connection.execute(text(_OPERATOR_EXISTS), {"role": Role.PLATFORM_ADMIN})).scalar_one():
            raise WireroomError(
                ErrorKind.CONFLICT, ADMIN_EXISTS, "This installation has an administrator already; sign in with that account."
            )
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
