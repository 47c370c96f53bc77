"""Custom roles, invitations, disabled tenants, accounts without a password."""

from alembic import op

from wireroom_common.db.schema import statements_of, tenant_table

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

UPGRADE = statements_of(
    [
        "ALTER TABLE auth.tenants ADD COLUMN disabled_at timestamptz",
        "ALTER TABLE auth.users ALTER COLUMN password_hash DROP NOT NULL",
        """
        CREATE TABLE auth.custom_roles (
            tenant_id uuid NOT NULL REFERENCES auth.tenants,
            name text NOT NULL,
            permissions text[] NOT NULL,
            created_at timestamptz NOT NULL,
            changed_at timestamptz NOT NULL,
            PRIMARY KEY (tenant_id, name)
        )
        """,
        "CREATE UNIQUE INDEX custom_roles_name ON auth.custom_roles (tenant_id, lower(name))",
    ],
    # Read with every user, also before their tenant is known.
    tenant_table("auth", "custom_roles", system="SELECT"),
    [
        """
        CREATE TABLE auth.invitations (
            tenant_id uuid NOT NULL REFERENCES auth.tenants,
            id uuid NOT NULL,
            email text NOT NULL,
            roles text[] NOT NULL,
            token_hash bytea NOT NULL CONSTRAINT invitations_token UNIQUE,
            invited_by uuid NOT NULL,
            by_operator boolean NOT NULL,
            created_at timestamptz NOT NULL,
            expires_at timestamptz NOT NULL,
            accepted_at timestamptz,
            PRIMARY KEY (tenant_id, id)
        )
        """,
        "CREATE UNIQUE INDEX invitations_pending ON auth.invitations (tenant_id, email) WHERE accepted_at IS NULL",
        "CREATE INDEX invitations_expiry ON auth.invitations (expires_at)",
    ],
    # Looked up by token before the tenant is known, and removed when long expired.
    tenant_table("auth", "invitations", system="SELECT, DELETE"),
    [
        # Operators are spread over tenants and the app role sees only one: this tells it whether there is any, and nothing else. The
        # owner's policies let it see all rows.
        """
        CREATE FUNCTION auth.operator_exists() RETURNS boolean
        LANGUAGE sql STABLE SECURITY DEFINER SET search_path = auth, pg_temp AS $$
            SELECT EXISTS (
                SELECT 1 FROM users u JOIN tenants t ON t.tenant_id = u.tenant_id
                WHERE u.roles @> ARRAY['platform_admin'] AND u.disabled_at IS NULL AND t.disabled_at IS NULL
            )
        $$
        """,
        "REVOKE ALL ON FUNCTION auth.operator_exists() FROM PUBLIC",
        "GRANT EXECUTE ON FUNCTION auth.operator_exists() TO auth_app",
        # What an operator does to a tenant stands in the tenant's chain and in the installation's, written in one transaction.
        (
            "CREATE POLICY app_installation_audit ON auth.outbox FOR INSERT TO auth_app"
            " WITH CHECK (tenant_id IS NULL AND type = 'audit.recorded')"
        ),
    ],
)

DOWNGRADE = [
    "DROP POLICY app_installation_audit ON auth.outbox",
    "DROP FUNCTION auth.operator_exists()",
    "DROP TABLE auth.invitations",
    "DROP TABLE auth.custom_roles",
    # Fits no password.
    "UPDATE auth.users SET password_hash = '' WHERE password_hash IS NULL",
    "ALTER TABLE auth.users ALTER COLUMN password_hash SET NOT NULL",
    "ALTER TABLE auth.tenants DROP COLUMN disabled_at",
]


def upgrade() -> None:
    for statement in UPGRADE:
        op.execute(statement)


def downgrade() -> None:
    for statement in DOWNGRADE:
        op.execute(statement)
