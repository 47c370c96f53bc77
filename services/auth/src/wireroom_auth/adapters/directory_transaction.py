"""Changes of a tenant's directory: one at a time."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from wireroom_auth.adapters import audit_trail
from wireroom_auth.adapters.accounts_sql import USER_COLUMNS, user_of
from wireroom_auth.domain.directory import last_admin, last_operator
from wireroom_auth.domain.identity import User
from wireroom_auth.domain.permissions import Role
from wireroom_auth.errors import account_unavailable
from wireroom_common.db import Database
from wireroom_common.errors import not_found
from wireroom_common.principal import Principal

_OPERATORS_LOCK = "wireroom_auth.operators"


@dataclass(frozen=True)
class DirectoryTransaction:
    """A transaction of one tenant that holds the lock on the tenant's row, so that what it decided by stays true until it commits."""

    connection: AsyncConnection
    tenant_id: UUID
    tenant_disabled: bool

    async def held_by(self, caller: Principal, permission: str) -> frozenset[str]:
        """What the caller holds now: the presented credential may be older than a change of its owner's rights.

        UNAUTHENTICATED if the caller is gone or disabled; FORBIDDEN without `permission`.
        """
        actor = await self.find_user(caller.user_id())
        if actor is None or actor.disabled_at is not None:
            raise account_unavailable()
        held = caller.permissions & actor.grantable_to_keys
        replace(caller, permissions=held).require(permission)
        return held

    async def find_user(self, user_id: UUID) -> User | None:
        """A user of the tenant, locked until the end; None if there is none."""
        row = (
            await self.connection.execute(
                text(
                    f"SELECT {USER_COLUMNS} FROM users u WHERE u.tenant_id = :tenant_id AND u.id = :id FOR NO KEY UPDATE OF u"  # noqa: S608  constant
                ),
                {"tenant_id": self.tenant_id, "id": user_id},
            )
        ).first()
        return user_of(row) if row else None

    async def user(self, user_id: UUID) -> User:
        """A user of the tenant, locked until the end; NOT_FOUND if there is none."""
        found = await self.find_user(user_id)
        if found is None:
            raise not_found("user")
        return found

    async def custom_roles(self, names: Iterable[str]) -> dict[str, frozenset[str]]:
        """Those of the names that are custom roles, with what is stored for them."""
        rows = await self.connection.execute(
            text("SELECT name, permissions FROM custom_roles WHERE tenant_id = :tenant_id AND name = ANY (:names)"),
            {"tenant_id": self.tenant_id, "names": list(names)},
        )
        return {row.name: frozenset(row.permissions) for row in rows}

    async def has_admin(self) -> bool:
        """Whether there is an active Admin."""
        found = await self.connection.execute(
            text(
                "SELECT EXISTS (SELECT 1 FROM users WHERE tenant_id = :tenant_id AND roles @> ARRAY[CAST(:admin AS text)]"
                " AND disabled_at IS NULL)"
            ),
            {"tenant_id": self.tenant_id, "admin": Role.ADMIN.value},
        )
        return bool(found.scalar_one())

    async def require_left(self, lost: Collection[str]) -> None:
        """After an active user lost the roles `lost`: CONFLICT if they were the tenant's last Admin or the last operator."""
        if Role.ADMIN in lost and not await self.has_admin():
            raise last_admin()
        if Role.PLATFORM_ADMIN in lost:
            await require_operator(self.connection)

    async def record(self, action: str, *, subject: str, actor: str, details: Mapping[str, Any] | None = None) -> None:
        """Audit an action in the tenant's chain."""
        await audit_trail.record(self.connection, action, tenant_id=self.tenant_id, subject=subject, actor=actor, details=details)


@asynccontextmanager
async def directory_transaction(database: Database, tenant_id: UUID) -> AsyncIterator[DirectoryTransaction]:
    """Begin a change; NOT_FOUND if there is no such tenant."""
    async with database.tenant(tenant_id) as connection:
        row = (
            await connection.execute(
                text("SELECT disabled_at FROM tenants WHERE tenant_id = :tenant_id FOR NO KEY UPDATE"), {"tenant_id": tenant_id}
            )
        ).first()
        if row is None:
            raise not_found("tenant")
        yield DirectoryTransaction(connection, tenant_id, row.disabled_at is not None)


async def require_operator(connection: AsyncConnection) -> None:
    """After an operator was lost: CONFLICT if it was the last one.

    Operators of several tenants may be lost at the same moment. The lock, taken after that of the tenant, makes the losses queue, so that
    the later one sees the earlier.
    """
    await connection.execute(text("SELECT pg_advisory_xact_lock(hashtextextended(:lock, 0))"), {"lock": _OPERATORS_LOCK})
    if not (await connection.execute(text("SELECT operator_exists()"))).scalar_one():
        raise last_operator()
