"""Tenants in PostgreSQL. Each is changed on a connection of its own, also by operators from outside."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Row, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from wireroom_auth.adapters import audit_trail
from wireroom_auth.adapters.directory_transaction import directory_transaction, require_operator
from wireroom_auth.adapters.epochs import raise_tenant_epoch
from wireroom_auth.domain.identity import DEFAULT_TENANT
from wireroom_auth.domain.tenants import Tenant, TenantChange
from wireroom_common.db import Database
from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_common.outbox import emit
from wireroom_common.principal import Principal
from wireroom_protos.events.v1 import events_pb2

_COLUMNS = "tenant_id, name, created_at, disabled_at"


class SqlTenants:
    """Listed by the system role, as no tenant sees another."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def create(self, caller: Principal, tenant: Tenant) -> None:
        with _unique_name():
            async with self._database.tenant(tenant.id) as connection:
                await connection.execute(
                    text("INSERT INTO tenants (tenant_id, name, created_at) VALUES (:id, :name, :created_at)"),
                    {"id": tenant.id, "name": tenant.name, "created_at": tenant.created_at},
                )
                event = events_pb2.AuthTenantCreated(tenant_id=str(tenant.id), name=tenant.name)
                await emit(connection, event, tenant_id=tenant.id, subject=str(tenant.id), actor=caller.subject)
                await _record(connection, "tenant.created", tenant.id, caller, {"name": tenant.name})

    async def page(self, *, before: UUID | None, limit: int) -> list[Tenant]:
        async with self._database.system() as connection:
            rows = await connection.execute(
                text(
                    f"SELECT {_COLUMNS} FROM tenants WHERE CAST(:before AS uuid) IS NULL OR tenant_id < :before"  # noqa: S608  constant
                    " ORDER BY tenant_id DESC LIMIT :limit"
                ),
                {"before": before, "limit": limit},
            )
            return [_tenant_of(row) for row in rows]

    async def update(self, caller: Principal, tenant_id: UUID, change: TenantChange, *, now: datetime) -> Tenant:
        with _unique_name():
            async with directory_transaction(self._database, tenant_id) as transaction:
                connection = transaction.connection
                place = {"tenant_id": tenant_id}
                before = _tenant_of(
                    (
                        await connection.execute(
                            text(f"SELECT {_COLUMNS} FROM tenants WHERE tenant_id = :tenant_id"),  # noqa: S608  constant
                            place,
                        )
                    ).one()
                )
                after = _changed(before, change, now)
                if before.name == DEFAULT_TENANT != after.name:
                    raise _default_tenant()
                await connection.execute(
                    text("UPDATE tenants SET name = :name, disabled_at = :disabled_at WHERE tenant_id = :tenant_id"),
                    {**place, "name": after.name, "disabled_at": after.disabled_at},
                )
                if before.name != after.name:
                    details = {"before": before.name, "after": after.name}
                    await _record(connection, "tenant.renamed", tenant_id, caller, details)
                if before.disabled_at is None and after.disabled_at is not None:
                    await require_operator(connection)
                    await raise_tenant_epoch(connection, tenant_id, now, actor=caller.subject)
                    await _record(connection, "tenant.disabled", tenant_id, caller)
                if before.disabled_at is not None and after.disabled_at is None:
                    await _record(connection, "tenant.enabled", tenant_id, caller)
                return after


def _tenant_of(row: Row[Any]) -> Tenant:
    return Tenant(row.tenant_id, row.name, row.created_at, row.disabled_at)


def _changed(tenant: Tenant, change: TenantChange, now: datetime) -> Tenant:
    disabled_at = tenant.disabled_at
    if change.disabled is not None:
        disabled_at = (disabled_at or now) if change.disabled else None
    return replace(tenant, name=tenant.name if change.name is None else change.name, disabled_at=disabled_at)


async def _record(
    connection: AsyncConnection, action: str, tenant_id: UUID, caller: Principal, details: Mapping[str, Any] | None = None
) -> None:
    """In the tenant's chain and in the installation's: both its Admins and the operators must be able to read of it."""
    for chain in (tenant_id, None):
        await audit_trail.record(
            connection, action, tenant_id=chain, subject=str(tenant_id), actor=caller.subject, details=details
        )


def _default_tenant() -> WireroomError:
    return WireroomError(
        ErrorKind.CONFLICT,
        "default_tenant",
        f"The tenant '{DEFAULT_TENANT}' keeps its name: people who register without an invitation join it.",
    )


@contextmanager
def _unique_name() -> Iterator[None]:
    try:
        yield
    except IntegrityError as error:
        if "tenants_name" not in str(error.orig):
            raise
        raise WireroomError(
            ErrorKind.CONFLICT, "tenant_name_taken", "There is a tenant with this name; choose another."
        ) from None
