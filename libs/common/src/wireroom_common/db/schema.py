"""DDL that every service's migrations share: roles, row-level security, outbox and inbox.

Roles per service: `<svc>_owner` (migrations, backfills, dumps), `<svc>_app` (one tenant at a time), `<svc>_system` (named tables).
FORCE makes the policies bind the owner too, whose own policy is `USING (true)`.
"""

from __future__ import annotations

from collections.abc import Sequence

TENANT_EXPRESSION = "NULLIF(current_setting('wireroom.tenant', true), '')::uuid"


def tenant_table(schema: str, table: str, *, system: str = "") -> list[str]:
    """Statements that put `schema.table` (with a `tenant_id uuid NOT NULL`) under row-level security.

    `system` is the list of privileges the system role gets across tenants, for example "SELECT, UPDATE"; empty for none.
    """
    name = f"{schema}.{table}"
    statements = [
        f"ALTER TABLE {name} ENABLE ROW LEVEL SECURITY",
        f"ALTER TABLE {name} FORCE ROW LEVEL SECURITY",
        f"CREATE POLICY owner_all ON {name} TO {schema}_owner USING (true) WITH CHECK (true)",
        (
            f"CREATE POLICY app_tenant ON {name} TO {schema}_app"
            f" USING (tenant_id = {TENANT_EXPRESSION}) WITH CHECK (tenant_id = {TENANT_EXPRESSION})"
        ),
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON {name} TO {schema}_app",
    ]
    if system:
        statements += [
            f"CREATE POLICY system_all ON {name} TO {schema}_system USING (true) WITH CHECK (true)",
            f"GRANT {system} ON {name} TO {schema}_system",
        ]
    return statements


def system_table(schema: str, table: str, *, system: str = "SELECT, INSERT, UPDATE, DELETE") -> list[str]:
    """Statements for a table without tenants, which only the system role may use."""
    return [
        f"ALTER TABLE {schema}.{table} ENABLE ROW LEVEL SECURITY",
        f"ALTER TABLE {schema}.{table} FORCE ROW LEVEL SECURITY",
        f"CREATE POLICY owner_all ON {schema}.{table} TO {schema}_owner USING (true) WITH CHECK (true)",
        f"CREATE POLICY system_all ON {schema}.{table} TO {schema}_system USING (true) WITH CHECK (true)",
        f"GRANT {system} ON {schema}.{table} TO {schema}_system",
    ]


def messaging_tables(schema: str) -> list[str]:
    """Outbox, inbox and deliveries of one service.

    `outbox`: written in the transaction of the change, drained by the relay, which leases rows and deletes them when delivered.
    `inbox`: (consumer, event) seen; written in the transaction of the effect.
    `deliveries`: events that a handler could not take yet (`retry`) or at all (`dead`) when no broker holds them.
    """
    return [
        f"""
        CREATE TABLE {schema}.outbox (
            id uuid PRIMARY KEY,
            tenant_id uuid,
            type text NOT NULL,
            subject text NOT NULL,
            partition_key text NOT NULL,
            actor text NOT NULL,
            traceparent text NOT NULL,
            causation_id text NOT NULL,
            data bytea NOT NULL,
            created_at timestamptz NOT NULL DEFAULT now(),
            leased_until timestamptz,
            attempts integer NOT NULL DEFAULT 0
        )
        """,
        f"""
        CREATE FUNCTION {schema}.outbox_notify() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN PERFORM pg_notify('{schema}_outbox', ''); RETURN NULL; END $$
        """,
        f"CREATE TRIGGER outbox_wakes_relay AFTER INSERT ON {schema}.outbox FOR EACH STATEMENT EXECUTE FUNCTION {schema}.outbox_notify()",
        *system_table(schema, "outbox"),
        f"CREATE POLICY app_insert ON {schema}.outbox FOR INSERT TO {schema}_app WITH CHECK (tenant_id = {TENANT_EXPRESSION})",
        f"GRANT INSERT ON {schema}.outbox TO {schema}_app",
        f"""
        CREATE TABLE {schema}.inbox (
            consumer text NOT NULL,
            event_id uuid NOT NULL,
            seen_at timestamptz NOT NULL DEFAULT now(),
            PRIMARY KEY (consumer, event_id)
        )
        """,
        f"CREATE INDEX inbox_age ON {schema}.inbox (seen_at)",
        *system_table(schema, "inbox"),
        f"CREATE POLICY app_insert ON {schema}.inbox FOR INSERT TO {schema}_app WITH CHECK (true)",
        f"CREATE POLICY app_select ON {schema}.inbox FOR SELECT TO {schema}_app USING (true)",
        f"GRANT SELECT, INSERT ON {schema}.inbox TO {schema}_app",
        f"""
        CREATE TABLE {schema}.deliveries (
            consumer text NOT NULL,
            event_id uuid NOT NULL,
            state text NOT NULL CHECK (state IN ('retry', 'dead')),
            envelope bytea NOT NULL,
            attempts integer NOT NULL,
            next_attempt_at timestamptz NOT NULL,
            error text NOT NULL,
            updated_at timestamptz NOT NULL DEFAULT now(),
            PRIMARY KEY (consumer, event_id)
        )
        """,
        f"CREATE INDEX deliveries_due ON {schema}.deliveries (next_attempt_at) WHERE state = 'retry'",
        *system_table(schema, "deliveries"),
    ]


def idempotency_table(schema: str) -> list[str]:
    """Which request with an idempotency key has taken effect on what; written by `outbox.emit` in the effect's transaction."""
    return [
        f"""
        CREATE TABLE {schema}.idempotency (
            tenant_id uuid NOT NULL,
            key_hash text NOT NULL,
            call_id uuid NOT NULL,
            subject text NOT NULL,
            created_at timestamptz NOT NULL DEFAULT now(),
            PRIMARY KEY (tenant_id, key_hash)
        )
        """,
        f"CREATE INDEX idempotency_age ON {schema}.idempotency (created_at)",
        *tenant_table(schema, "idempotency", system="SELECT, INSERT, UPDATE, DELETE"),
        f"REVOKE UPDATE, DELETE ON {schema}.idempotency FROM {schema}_app",
    ]


def service_roles(service: str, password: str | None) -> list[str]:
    """Statements, for an administrator, that make the service's roles and schema. Idempotent."""
    statements: list[str] = []
    for kind in ("owner", "app", "system"):
        role = f"{service}_{kind}"
        statements.append(
            f"DO $$ BEGIN CREATE ROLE {role} LOGIN NOSUPERUSER NOBYPASSRLS NOCREATEDB NOCREATEROLE;"
            " EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$"
        )
        if password is not None:
            statements.append(f"ALTER ROLE {role} PASSWORD {quote_literal(password)}")
    statements += [
        f"GRANT {service}_owner TO CURRENT_USER",
        f"CREATE SCHEMA IF NOT EXISTS {service} AUTHORIZATION {service}_owner",
        f"GRANT USAGE ON SCHEMA {service} TO {service}_app, {service}_system",
    ]
    return statements


def quote_literal(value: str) -> str:
    """`value` as an SQL string literal (standard_conforming_strings)."""
    if "\x00" in value:
        msg = "A password must not contain NUL."
        raise ValueError(msg)
    return "'" + value.replace("'", "''") + "'"


def statements_of(*groups: Sequence[str]) -> list[str]:
    """All statements of the groups, in order."""
    return [statement for group in groups for statement in group]
