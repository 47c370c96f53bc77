"""Users and the admin token in PostgreSQL."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

from sqlalchemy import Row, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from wireroom_auth.adapters.audit_trail import record
from wireroom_auth.domain.credentials import digest
from wireroom_auth.domain.identity import DEFAULT_TENANT, Account, User
from wireroom_auth.errors import admin_token_invalid, email_taken
from wireroom_common.db import Database
from wireroom_common.outbox import emit
from wireroom_protos.events.v1 import events_pb2

USER_COLUMNS = (
    "u.id AS user_id, u.tenant_id AS user_tenant_id, u.email AS user_email, u.name AS user_name, u.roles AS user_roles,"
    " (SELECT t.epoch FROM tenants t WHERE t.tenant_id = u.tenant_id) AS user_tenant_epoch,"
    " u.epoch AS user_epoch, u.created_at AS user_created_at, LEAST(u.disabled_at, (SELECT t.disabled_at FROM tenants t"
    " WHERE t.tenant_id = u.tenant_id)) AS user_disabled_at, ARRAY(SELECT p FROM custom_roles r, unnest(r.permissions) p"
    " WHERE r.tenant_id = u.tenant_id AND r.name = ANY (u.roles)) AS user_custom_permissions,"
    " u.email_verified_at AS user_email_verified_at, EXISTS (SELECT 1 FROM totp_factors f WHERE f.tenant_id = u.tenant_id"
    " AND f.user_id = u.id AND f.confirmed_at IS NOT NULL) AS user_second_factor"
)


def user_of(row: Row[Any]) -> User:
    """The user in a row that was selected with `USER_COLUMNS`."""
    return User(
        id=row.user_id,
        tenant_id=row.user_tenant_id,
        email=row.user_email,
        name=row.user_name,
        roles=tuple(row.user_roles),
        epoch=row.user_epoch,
        tenant_epoch=row.user_tenant_epoch,
        created_at=row.user_created_at,
        disabled_at=row.user_disabled_at,
        custom_permissions=frozenset(row.user_custom_permissions),
        email_verified_at=row.user_email_verified_at,
        second_factor=row.user_second_factor,
    )


class SqlAccounts:
    """Lookups before a tenant is known run as the system role."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def by_email(self, email: str) -> Account | None:
        async with self._database.system() as connection:
            row = (
                await connection.execute(
                    text(f"SELECT {USER_COLUMNS}, u.password_hash FROM users u WHERE u.email = :email"),  # noqa: S608  constant
                    {"email": email},
                )
            ).first()
        return Account(user_of(row), row.password_hash) if row else None

    async def get(self, tenant_id: UUID, user_id: UUID) -> User | None:
        async with self._database.tenant(tenant_id) as connection:
            row = (
                await connection.execute(
                    text(f"SELECT {USER_COLUMNS} FROM users u WHERE u.tenant_id = :tenant_id AND u.id = :id"),  # noqa: S608  constant
                    {"tenant_id": tenant_id, "id": user_id},
                )
            ).first()
        return user_of(row) if row else None

    async def default_tenant(self) -> UUID:
        async with self._database.system() as connection:
            found = await connection.execute(text("SELECT tenant_id FROM tenants WHERE name = :name"), {"name": DEFAULT_TENANT})
            tenant_id: UUID = found.scalar_one()
        return tenant_id

    async def is_admin_token(self, token: str) -> bool:
        async with self._database.system() as connection:
            stored = (await connection.execute(text("SELECT admin_token_hash FROM installation"))).scalar_one_or_none()
        return _is_token(token, stored)

    async def add(self, account: Account, *, via: str, admin_token: str = "") -> None:
        with unique_email():
            async with self._database.system() as connection:
                if admin_token:
                    # The row lock makes concurrent users of one token queue here; the second one finds it spent.
                    stored = (
                        await connection.execute(text("SELECT admin_token_hash FROM installation FOR UPDATE"))
                    ).scalar_one_or_none()
                    if not _is_token(admin_token, stored):
                        raise admin_token_invalid()
                    await connection.execute(text("UPDATE installation SET admin_token_hash = NULL"))
                await insert_account(connection, account, via=via, actor=str(account.user.id))


async def insert_account(connection: AsyncConnection, account: Account, *, via: str, actor: str) -> None:
    """Store a user, tell of it and audit it, in the caller's transaction; to be run inside of `unique_email`."""
    user = account.user
    await connection.execute(
        text(
            "INSERT INTO users (tenant_id, id, email, name, password_hash, roles, epoch, created_at)"
            " VALUES (:tenant_id, :id, :email, :name, :password_hash, :roles, :epoch, :created_at)"
        ),
        {
            "tenant_id": user.tenant_id,
            "id": user.id,
            "email": user.email,
            "name": user.name,
            "password_hash": account.password_hash,
            "roles": list(user.roles),
            "epoch": user.epoch,
            "created_at": user.created_at,
        },
    )
    event = events_pb2.AuthUserRegistered(
        user_id=str(user.id), email_sha256=hashlib.sha256(user.email.encode()).hexdigest(), via=via
    )
    await emit(connection, event, tenant_id=user.tenant_id, subject=str(user.id), actor=actor)
    details = {"via": via, "roles": list(user.roles)}
    await record(connection, "user.registered", tenant_id=user.tenant_id, subject=str(user.id), actor=actor, details=details)


@contextmanager
def unique_email() -> Iterator[None]:
    """Around a transaction that stores a user: CONFLICT `email_taken` when another one has the address."""
    try:
        yield
    except IntegrityError as error:
        if "users_email" not in str(error.orig):
            raise
        raise email_taken() from None


def _is_token(token: str, stored: bytes | None) -> bool:
    return stored is not None and hmac.compare_digest(digest(token), stored)
