from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID

import psycopg
import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.exc import ProgrammingError
from sqlalchemy.pool import NullPool

from wireroom_common.db import DatabaseUrl
from wireroom_common.db.migrate import bootstrap, downgrade, upgrade
from wireroom_common.principal import Principal, PrincipalKind

TENANT_TABLES = ("tenants", "users", "sessions", "refresh_tokens", "api_keys")
SYSTEM_RIGHTS = {
    "tenants": "INSERT SELECT",
    "users": "INSERT SELECT",
    "sessions": "DELETE SELECT",
    "refresh_tokens": "SELECT",
    "api_keys": "SELECT",
    "signing_keys": "DELETE INSERT SELECT",
    "installation": "INSERT SELECT UPDATE",
    "audit_records": "INSERT SELECT",
    "audit_heads": "INSERT SELECT UPDATE",
    "audit_keys": "INSERT SELECT",
    "address_blocks": "DELETE INSERT SELECT UPDATE",
}


async def populated(auth: Any) -> tuple[Any, list[str]]:
    """A user with a session, a spent refresh token and a key; and every secret that was handed out."""
    admin_token = auth.infra.admin_token()
    user = await auth.register_admin()
    first = (await auth.login()).tokens
    second = await auth.refresh(first.refresh_token)
    caller = Principal(PrincipalKind.USER, user.id, UUID(user.tenant_id), frozenset(user.roles), frozenset(user.permissions))
    key = await auth.create_key(caller)
    return user, [admin_token, first.refresh_token, second.refresh_token, first.access_token, key.secret]


async def test_app_role_of_another_tenant_sees_and_changes_nothing(auth: Any) -> None:
    user, _ = await populated(auth)
    other = await auth.add_tenant("other")
    async with auth.database.tenant(UUID(user.tenant_id)) as connection:
        for table in TENANT_TABLES:
            assert (await connection.execute(text(f"SELECT count(*) FROM {table}"))).scalar_one() >= 1  # noqa: S608  literal
    async with auth.database.tenant(other) as connection:
        for table in TENANT_TABLES:
            rows = await connection.execute(text(f"SELECT tenant_id FROM {table}"))  # noqa: S608  literal
            assert set(rows.scalars()) <= {other}
            changed = await connection.execute(
                text(f"UPDATE {table} SET tenant_id = :other WHERE tenant_id = :own"),  # noqa: S608  literal
                {"other": other, "own": UUID(user.tenant_id)},
            )
            assert changed.rowcount == 0
    with pytest.raises(ProgrammingError, match="row-level security"):
        async with auth.database.tenant(other) as connection:
            await connection.execute(
                text(
                    "INSERT INTO users (tenant_id, id, email, name, password_hash, roles, created_at)"
                    " VALUES (:tenant, gen_random_uuid(), 'x@example.org', '', '', '{Admin}', now())"
                ),
                {"tenant": UUID(user.tenant_id)},
            )


async def test_app_role_cannot_read_what_belongs_to_the_installation(auth: Any) -> None:
    for table in ("signing_keys", "installation", "outbox"):
        with pytest.raises(ProgrammingError, match="permission denied"):
            async with auth.database.tenant(UUID(int=1)) as connection:
                await connection.execute(text(f"SELECT * FROM {table}"))  # noqa: S608  literal


async def test_system_role_has_only_the_rights_it_needs(auth: Any) -> None:
    held: dict[str, list[str]] = {table: [] for table in SYSTEM_RIGHTS}
    async with auth.database.system() as connection:
        for table, rights in held.items():
            for right in ("DELETE", "INSERT", "SELECT", "UPDATE", "TRUNCATE"):
                found = await connection.execute(
                    text("SELECT has_table_privilege(:table, :right)"), {"table": table, "right": right}
                )
                if found.scalar_one():
                    rights.append(right)
    assert {table: " ".join(rights) for table, rights in held.items()} == SYSTEM_RIGHTS
    for statement in (
        "UPDATE users SET roles = '{platform_admin}'",
        "UPDATE api_keys SET revoked_at = NULL",
        "UPDATE refresh_tokens SET used_at = NULL",
        "UPDATE signing_keys SET private_key_sealed = ''",
    ):
        with pytest.raises(ProgrammingError, match="permission denied"):
            async with auth.database.system() as connection:
                await connection.execute(text(statement))


async def test_no_role_in_use_bypasses_row_security(auth: Any) -> None:
    await auth.database.refuse_dangerous_role()
    async with auth.database.system() as connection:
        unprotected = await connection.execute(
            text(
                "SELECT relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = 'auth'"
                " AND relkind = 'r' AND relname <> 'alembic_version' AND NOT (relrowsecurity AND relforcerowsecurity)"
            )
        )
        assert unprotected.scalars().all() == []


async def test_no_secret_is_stored_in_clear(auth: Any, password: str, fresh_database_url: str) -> None:
    _, secrets = await populated(auth)
    engine = create_engine(DatabaseUrl.parse(fresh_database_url).as_role("auth_owner"), poolclass=NullPool)
    dump = ""
    with engine.connect() as connection:
        for (table,) in connection.execute(text("SELECT tablename FROM pg_tables WHERE schemaname = 'auth'")).all():
            rows = connection.execute(text(f"SELECT t::text FROM auth.{table} t"))  # noqa: S608  names from the catalogue
            dump += f"{table}:" + "\n".join(rows.scalars())
    engine.dispose()
    assert "users:" in dump
    for secret in [*secrets, password]:
        assert secret not in dump
        assert secret[-20:] not in dump
        # bytea columns are shown in hexadecimal.
        assert secret.encode().hex() not in dump
    assert '"d"' not in dump
    assert b'"d"'.hex() not in dump
    assert "argon2id" in dump


async def test_stored_private_key_opens_only_in_its_row_and_with_the_master_secret(auth: Any) -> None:
    from cryptography.exceptions import InvalidTag  # noqa: PLC0415  only here

    from wireroom_auth.adapters.encryption import derive_key, unseal  # noqa: PLC0415  only here

    async with auth.database.system() as connection:
        row = (await connection.execute(text("SELECT kid, private_key_sealed FROM signing_keys LIMIT 1"))).one()
    key = derive_key(auth.infra.master, "wireroom/auth/signing-keys/v1")
    assert b'"d"' in unseal(key, row.private_key_sealed, bound_to=row.kid.encode())
    with pytest.raises(InvalidTag):
        unseal(key, row.private_key_sealed, bound_to=b"another row")
    with pytest.raises(InvalidTag):
        unseal(derive_key(b"x" * 32, "wireroom/auth/signing-keys/v1"), row.private_key_sealed, bound_to=row.kid.encode())


def test_migration_goes_up_down_and_up_again(fresh_database_url: str) -> None:
    url = DatabaseUrl.parse(fresh_database_url)
    server = url.url.set(drivername="postgresql").render_as_string(hide_password=False)

    def left(connection: psycopg.Connection[Any]) -> list[Any]:
        return connection.execute(
            "SELECT relname::text FROM pg_class WHERE relnamespace = 'auth'::regnamespace AND relname NOT LIKE 'alembic%'"
            " UNION ALL SELECT proname::text FROM pg_proc WHERE pronamespace = 'auth'::regnamespace"
        ).fetchall()

    bootstrap(url, ["auth"])
    steps: list[Callable[[], None]] = [lambda: upgrade(url, "auth"), lambda: downgrade(url, "auth"), lambda: upgrade(url, "auth")]
    states = []
    for step in steps:
        step()
        with psycopg.connect(server) as connection:
            states.append(sorted(left(connection)))
    assert states[1] == []
    assert states[0] == states[2]
    assert len(states[0]) > 10
