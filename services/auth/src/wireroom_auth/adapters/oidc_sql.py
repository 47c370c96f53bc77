"""Logins begun at identity providers, and the identities of accounts, in PostgreSQL."""

from __future__ import annotations

import json
from datetime import datetime
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from wireroom_auth.adapters import audit_trail
from wireroom_auth.adapters.accounts_sql import USER_COLUMNS, SqlAccounts, insert_account, user_of
from wireroom_auth.adapters.encryption import OIDC_LOGINS, Sealing
from wireroom_auth.domain.credentials import digest
from wireroom_auth.domain.identity import Account, User
from wireroom_auth.domain.oidc import LOGIN_LIFE, Identity, Linking, LoginSecrets, Provider, decide_linking, require_domain
from wireroom_common.clock import Clock
from wireroom_common.db import Database
from wireroom_common.ids import new_id
from wireroom_common.outbox import emit
from wireroom_protos.events.v1 import events_pb2


class SqlOidcLogins:
    """Found by the digest of the state; the digest of the browser's secret must fit as well."""

    def __init__(self, database: Database, clock: Clock, sealing: Sealing) -> None:
        self._database = database
        self._clock = clock
        self._sealing = sealing

    async def add(self, provider: Provider, *, state: str, binding: str, secrets: LoginSecrets, return_to: str) -> None:
        now, key = self._clock.now(), digest(state)
        content = json.dumps([secrets.nonce, secrets.code_verifier]).encode()
        async with self._database.system() as connection:
            await connection.execute(
                text(
                    "INSERT INTO oidc_logins (state_hash, provider, binding_hash, secrets_sealed, return_to, created_at, expires_at)"
                    " VALUES (:state, :provider, :binding, :secrets, :return_to, :now, :expires_at)"
                ),
                {
                    "state": key,
                    "provider": provider.name,
                    "binding": digest(binding),
                    "secrets": self._sealing.seal(OIDC_LOGINS, content, bound_to=key),
                    "return_to": return_to,
                    "now": now,
                    "expires_at": now + LOGIN_LIFE,
                },
            )

    async def take(self, provider: Provider, *, state: str, binding: str) -> tuple[LoginSecrets, str] | None:
        key = digest(state)
        async with self._database.system() as connection:
            row = (
                await connection.execute(
                    text(
                        "DELETE FROM oidc_logins WHERE state_hash = :state AND provider = :provider AND binding_hash = :binding"
                        " AND expires_at > :now RETURNING secrets_sealed, return_to"
                    ),
                    {"state": key, "provider": provider.name, "binding": digest(binding), "now": self._clock.now()},
                )
            ).first()
        if row is None:
            return None
        nonce, code_verifier = json.loads(self._sealing.unseal(OIDC_LOGINS, row.secrets_sealed, bound_to=key))
        return LoginSecrets(nonce, code_verifier), row.return_to

    async def purge(self) -> None:
        """Remove a batch of expired logins."""
        async with self._database.system() as connection:
            await connection.execute(
                text(
                    "DELETE FROM oidc_logins WHERE state_hash IN (SELECT state_hash FROM oidc_logins WHERE expires_at < :now LIMIT 1000)"
                ),
                {"now": self._clock.now()},
            )


class SqlIdentities:
    """An identity is an issuer and a subject; the address only decides about its first login."""

    def __init__(self, database: Database, accounts: SqlAccounts, clock: Clock) -> None:
        self._database = database
        self._accounts = accounts
        self._clock = clock

    async def resolve(self, provider: Provider, identity: Identity) -> User:
        tenant_id = provider.tenant or await self._accounts.default_tenant()
        user = await self._linked(tenant_id, provider, identity)
        if user is None:
            try:
                user = await self._first_login(tenant_id, provider, identity)
            except IntegrityError:
                # Two first logins at once, or an account made meanwhile: decide again on what there is now.
                user = await self._linked(tenant_id, provider, identity)
                if user is None:
                    user = await self._first_login(tenant_id, provider, identity)
        return user

    async def _linked(self, tenant_id: UUID, provider: Provider, identity: Identity) -> User | None:
        async with self._database.tenant(tenant_id) as connection:
            row = (
                await connection.execute(
                    text(
                        f"SELECT {USER_COLUMNS} FROM oidc_identities i JOIN users u ON u.tenant_id = i.tenant_id AND u.id = i.user_id"  # noqa: S608  constant
                        " WHERE i.tenant_id = :tenant_id AND i.issuer = :issuer AND i.subject = :subject"
                    ),
                    _key(tenant_id, identity),
                )
            ).first()
            if row is None:
                return None
            require_domain(provider, identity)
            await connection.execute(
                text(
                    "UPDATE oidc_identities SET last_login_at = :now"
                    " WHERE tenant_id = :tenant_id AND issuer = :issuer AND subject = :subject"
                ),
                {**_key(tenant_id, identity), "now": self._clock.now()},
            )
        return user_of(row)

    async def _first_login(self, tenant_id: UUID, provider: Provider, identity: Identity) -> User:
        account = await self._accounts.by_email(identity.email) if identity.email else None
        linking = decide_linking(provider, identity, account, tenant_id)
        now = self._clock.now()
        async with self._database.tenant(tenant_id) as connection:
            if linking is Linking.CREATE or account is None:
                user = User(
                    id=new_id(),
                    tenant_id=tenant_id,
                    email=identity.email,
                    name=identity.name,
                    roles=provider.roles,
                    epoch=0,
                    created_at=now,
                )
                await insert_account(connection, Account(user, None), via="oidc", actor=str(user.id))
            else:
                # Still as it was decided on: nobody may set a password between the two.
                found = await connection.execute(
                    text(
                        f"SELECT {USER_COLUMNS}, u.password_hash FROM users u WHERE u.tenant_id = :tenant_id AND u.id = :id FOR UPDATE"  # noqa: S608  constant
                    ),
                    {"tenant_id": tenant_id, "id": account.user.id},
                )
                row = found.one()
                decide_linking(provider, identity, Account(user_of(row), row.password_hash), tenant_id)
                user = user_of(row)
            await _link(connection, user, tenant_id=tenant_id, provider=provider, identity=identity, now=now)
            row = (
                await connection.execute(
                    text(f"SELECT {USER_COLUMNS} FROM users u WHERE u.tenant_id = :tenant_id AND u.id = :id"),  # noqa: S608  constant
                    {"tenant_id": tenant_id, "id": user.id},
                )
            ).one()
        return user_of(row)


async def _link(
    connection: AsyncConnection, user: User, *, tenant_id: UUID, provider: Provider, identity: Identity, now: datetime
) -> None:
    await connection.execute(
        text(
            "INSERT INTO oidc_identities (tenant_id, issuer, subject, user_id, created_at, last_login_at)"
            " VALUES (:tenant_id, :issuer, :subject, :user_id, :now, :now)"
        ),
        {**_key(tenant_id, identity), "user_id": user.id, "now": now},
    )
    await connection.execute(
        text("UPDATE users SET email_verified_at = coalesce(email_verified_at, :now) WHERE tenant_id = :tenant_id AND id = :id"),
        {"tenant_id": tenant_id, "id": user.id, "now": now},
    )
    event = events_pb2.AuthIdentityLinked(user_id=str(user.id), provider=provider.name)
    await emit(connection, event, tenant_id=tenant_id, subject=str(user.id), actor=str(user.id))
    await audit_trail.record(
        connection,
        "identity.linked",
        tenant_id=tenant_id,
        subject=str(user.id),
        actor=str(user.id),
        details={"provider": provider.name, "issuer": identity.issuer},
    )


def _key(tenant_id: UUID, identity: Identity) -> dict[str, object]:
    return {"tenant_id": tenant_id, "issuer": identity.issuer, "subject": identity.subject}
