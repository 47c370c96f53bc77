"""Custom roles in PostgreSQL."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from sqlalchemy import text

from wireroom_auth.adapters.directory_transaction import DirectoryTransaction, directory_transaction
from wireroom_auth.adapters.epochs import raise_epoch, raise_tenant_epoch
from wireroom_auth.domain.directory import MANAGE_ROLES
from wireroom_auth.domain.permissions import TENANT_PERMISSIONS
from wireroom_auth.domain.roles import RoleDefinition, require_covered
from wireroom_common.db import Database
from wireroom_common.errors import ErrorKind, WireroomError, not_found
from wireroom_common.principal import Principal

# With more holders than this, one event for the whole tenant is cheaper for everybody than one for each.
_MOST_SINGLE_EPOCHS = 50


class SqlRoles:
    """Changes queue on the tenant's row."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def put(self, caller: Principal, role: RoleDefinition, *, now: datetime, max_roles: int) -> None:
        async with directory_transaction(self._database, caller.tenant()) as change:
            held = await change.held_by(caller, MANAGE_ROLES)
            before = await _find(change, role.name)
            # Also what the role gave so far: nobody takes away what they could not give.
            require_covered(role.permissions | (before or frozenset()), held)
            if before is None:
                await _require_room(change, max_roles)
            if before == role.permissions:
                return
            await change.connection.execute(
                text(
                    "INSERT INTO custom_roles (tenant_id, name, permissions, created_at, changed_at)"
                    " VALUES (:tenant_id, :name, :permissions, :now, :now) ON CONFLICT (tenant_id, name)"
                    " DO UPDATE SET permissions = excluded.permissions, changed_at = excluded.changed_at"
                ),
                {"tenant_id": change.tenant_id, "name": role.name, "permissions": sorted(role.permissions), "now": now},
            )
            details = {"before": sorted(before or ()), "after": sorted(role.permissions)}
            action = "role.created" if before is None else "role.changed"
            await change.record(action, subject=role.name, actor=caller.subject, details=details)
            if before is not None:
                await _void_tokens_of_holders(change, role.name, caller, now)

    async def all(self, tenant_id: UUID) -> list[RoleDefinition]:
        async with self._database.tenant(tenant_id) as connection:
            rows = await connection.execute(
                text("SELECT name, permissions FROM custom_roles WHERE tenant_id = :tenant_id ORDER BY name"),
                {"tenant_id": tenant_id},
            )
            return [RoleDefinition(row.name, TENANT_PERMISSIONS.intersection(row.permissions)) for row in rows]

    async def delete(self, caller: Principal, name: str) -> None:
        async with directory_transaction(self._database, caller.tenant()) as change:
            held = await change.held_by(caller, MANAGE_ROLES)
            permissions = (await change.custom_roles([name])).get(name)
            if permissions is None:
                raise not_found("role")
            require_covered(permissions & TENANT_PERMISSIONS, held)
            place = {"tenant_id": change.tenant_id, "name": name}
            holders = await change.connection.execute(
                text("SELECT count(*) FROM users WHERE tenant_id = :tenant_id AND roles @> ARRAY[CAST(:name AS text)]"), place
            )
            if count := holders.scalar_one():
                raise WireroomError(
                    ErrorKind.CONFLICT, "role_in_use", f"{count} users have the role '{name}'; take it from them first."
                )
            await change.connection.execute(text("DELETE FROM custom_roles WHERE tenant_id = :tenant_id AND name = :name"), place)
            await change.record("role.deleted", subject=name, actor=caller.subject, details={"before": sorted(permissions)})


async def _find(change: DirectoryTransaction, name: str) -> frozenset[str] | None:
    """What the role gives; None if it is new. CONFLICT if another role differs from it in case only."""
    row = (
        await change.connection.execute(
            text("SELECT name, permissions FROM custom_roles WHERE tenant_id = :tenant_id AND lower(name) = lower(:name)"),
            {"tenant_id": change.tenant_id, "name": name},
        )
    ).first()
    if row is None:
        return None
    if row.name != name:
        raise WireroomError(
            ErrorKind.CONFLICT, "role_name_taken", f"There is a role '{row.name}', which differs in upper and lower case only."
        )
    return TENANT_PERMISSIONS.intersection(row.permissions)


async def _require_room(change: DirectoryTransaction, max_roles: int) -> None:
    found = await change.connection.execute(
        text("SELECT count(*) FROM custom_roles WHERE tenant_id = :tenant_id"), {"tenant_id": change.tenant_id}
    )
    if found.scalar_one() >= max_roles:
        raise WireroomError(
            ErrorKind.CONFLICT, "role_limit_reached", f"The tenant has {max_roles} roles, which is the limit; delete one first."
        )


async def _void_tokens_of_holders(change: DirectoryTransaction, name: str, caller: Principal, now: datetime) -> None:
    found = await change.connection.execute(
        text(
            "SELECT id FROM users WHERE tenant_id = :tenant_id AND roles @> ARRAY[CAST(:name AS text)] ORDER BY id LIMIT :limit"
        ),
        {"tenant_id": change.tenant_id, "name": name, "limit": _MOST_SINGLE_EPOCHS + 1},
    )
    holders = found.scalars().all()
    if len(holders) > _MOST_SINGLE_EPOCHS:
        await raise_tenant_epoch(change.connection, change.tenant_id, now, actor=caller.subject)
        return
    for user_id in holders:
        await raise_epoch(change.connection, change.tenant_id, user_id, "roles", now, actor=caller.subject)
