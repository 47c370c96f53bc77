"""Epochs of tenants, what is known of a session, failed logins."""

from alembic import op

from wireroom_common.db.schema import statements_of, system_table, tenant_table

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

UPGRADE: list[str] = statements_of(
    [
        "ALTER TABLE auth.tenants ADD COLUMN epoch integer NOT NULL DEFAULT 0",
        "ALTER TABLE auth.sessions ADD COLUMN client_ip text NOT NULL DEFAULT ''",
        "ALTER TABLE auth.sessions ADD COLUMN user_agent text NOT NULL DEFAULT ''",
        "ALTER TABLE auth.sessions ADD COLUMN methods text[] NOT NULL DEFAULT '{password}'",
        "ALTER TABLE auth.sessions ADD COLUMN last_used_at timestamptz",
        # The newest epoch of each user (or, with the tenant's own id as subject, of the tenant), while tokens of an older one may live.
        # No foreign key: what a deleted user's tokens are worth must be known after the user is gone.
        """
        CREATE TABLE auth.epoch_raises (
            tenant_id uuid NOT NULL,
            subject_id uuid NOT NULL,
            epoch integer NOT NULL,
            raised_at timestamptz NOT NULL,
            PRIMARY KEY (tenant_id, subject_id)
        )
        """,
        "CREATE INDEX epoch_raises_time ON auth.epoch_raises (raised_at)",
    ],
    tenant_table("auth", "epoch_raises", system="SELECT, DELETE"),
    [
        # Keyed by digests of an address, a network, or both; so an address without an account leaves the same trace as one with.
        """
        CREATE TABLE auth.login_attempts (
            key bytea PRIMARY KEY,
            failures integer NOT NULL DEFAULT 0,
            failed_at timestamptz,
            blocked_until timestamptz,
            known_at timestamptz
        )
        """,
        "CREATE INDEX login_attempts_time ON auth.login_attempts (greatest(failed_at, known_at))",
    ],
    system_table("auth", "login_attempts"),
)
DOWNGRADE: list[str] = [
    "DROP TABLE auth.login_attempts",
    "DROP TABLE auth.epoch_raises",
    "ALTER TABLE auth.sessions DROP COLUMN last_used_at, DROP COLUMN methods, DROP COLUMN user_agent, DROP COLUMN client_ip",
    "ALTER TABLE auth.tenants DROP COLUMN epoch",
]


def upgrade() -> None:
    for statement in UPGRADE:
        op.execute(statement)


def downgrade() -> None:
    for statement in DOWNGRADE:
        op.execute(statement)
