"""Tenants, users, sessions, refresh tokens, API keys, signing keys, the installation's admin token, messaging."""

from alembic import op

from wireroom_common.db.schema import messaging_tables, statements_of, system_table, tenant_table

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

TABLES = statements_of(
    [
        """
        CREATE TABLE auth.tenants (
            tenant_id uuid PRIMARY KEY,
            name text NOT NULL CONSTRAINT tenants_name UNIQUE,
            created_at timestamptz NOT NULL
        )
        """
    ],
    tenant_table("auth", "tenants", system="SELECT, INSERT"),
    [
        """
        CREATE TABLE auth.users (
            tenant_id uuid NOT NULL REFERENCES auth.tenants,
            id uuid NOT NULL,
            email text NOT NULL CONSTRAINT users_email UNIQUE,
            name text NOT NULL,
            password_hash text NOT NULL,
            roles text[] NOT NULL,
            epoch integer NOT NULL DEFAULT 0,
            created_at timestamptz NOT NULL,
            disabled_at timestamptz,
            PRIMARY KEY (tenant_id, id)
        )
        """
    ],
    # The system role looks accounts up at login, by key and by refresh token, and makes the first user; it never changes one.
    tenant_table("auth", "users", system="SELECT, INSERT"),
    [
        """
        CREATE TABLE auth.sessions (
            tenant_id uuid NOT NULL,
            id uuid NOT NULL,
            user_id uuid NOT NULL,
            created_at timestamptz NOT NULL,
            expires_at timestamptz NOT NULL,
            latest_counter integer NOT NULL DEFAULT 0,
            revoked_at timestamptz,
            revoked_because text,
            PRIMARY KEY (tenant_id, id),
            FOREIGN KEY (tenant_id, user_id) REFERENCES auth.users (tenant_id, id) ON DELETE CASCADE
        )
        """,
        "CREATE INDEX sessions_user ON auth.sessions (tenant_id, user_id)",
        "CREATE INDEX sessions_expiry ON auth.sessions (expires_at)",
        "CREATE INDEX sessions_revoked ON auth.sessions (revoked_at) WHERE revoked_at IS NOT NULL",
    ],
    tenant_table("auth", "sessions", system="SELECT, DELETE"),
    [
        """
        CREATE TABLE auth.refresh_tokens (
            tenant_id uuid NOT NULL,
            session_id uuid NOT NULL,
            counter integer NOT NULL,
            token_hash bytea NOT NULL CONSTRAINT refresh_tokens_hash UNIQUE,
            used_at timestamptz,
            successor bytea,
            PRIMARY KEY (tenant_id, session_id, counter),
            FOREIGN KEY (tenant_id, session_id) REFERENCES auth.sessions (tenant_id, id) ON DELETE CASCADE
        )
        """,
        "CREATE INDEX refresh_tokens_successor ON auth.refresh_tokens (used_at) WHERE successor IS NOT NULL",
    ],
    tenant_table("auth", "refresh_tokens", system="SELECT, UPDATE (successor)"),
    [
        """
        CREATE TABLE auth.api_keys (
            tenant_id uuid NOT NULL,
            id uuid NOT NULL,
            owner_id uuid NOT NULL,
            name text NOT NULL,
            prefix text NOT NULL,
            key_hash bytea NOT NULL CONSTRAINT api_keys_hash UNIQUE,
            permissions text[] NOT NULL,
            created_at timestamptz NOT NULL,
            expires_at timestamptz,
            revoked_at timestamptz,
            last_used_at timestamptz,
            PRIMARY KEY (tenant_id, id),
            FOREIGN KEY (tenant_id, owner_id) REFERENCES auth.users (tenant_id, id) ON DELETE CASCADE
        )
        """,
        "CREATE INDEX api_keys_owner ON auth.api_keys (tenant_id, owner_id, id)",
        "CREATE INDEX api_keys_revoked ON auth.api_keys (revoked_at) WHERE revoked_at IS NOT NULL",
    ],
    tenant_table("auth", "api_keys", system="SELECT"),
    [
        """
        CREATE TABLE auth.signing_keys (
            kid text PRIMARY KEY,
            public_jwk text NOT NULL,
            private_key_sealed bytea NOT NULL,
            created_at timestamptz NOT NULL,
            retired_at timestamptz
        )
        """,
    ],
    system_table("auth", "signing_keys", system="SELECT, INSERT"),
    [
        """
        CREATE TABLE auth.installation (
            singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
            admin_token_hash bytea,
            admin_token_issued_at timestamptz
        )
        """,
    ],
    system_table("auth", "installation", system="SELECT, INSERT, UPDATE"),
    messaging_tables("auth"),
)


def upgrade() -> None:
    for statement in TABLES:
        op.execute(statement)


def downgrade() -> None:
    for table in (
        "deliveries",
        "inbox",
        "outbox",
        "installation",
        "signing_keys",
        "api_keys",
        "refresh_tokens",
        "sessions",
        "users",
        "tenants",
    ):
        op.execute(f"DROP TABLE auth.{table}")
    op.execute("DROP FUNCTION auth.outbox_notify()")
