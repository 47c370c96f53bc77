"""Requests for erasure and export."""

from __future__ import annotations

from alembic import op

from wireroom_common.db.schema import statements_of, system_table, tenant_table

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

_READ_ONLY_FOR_SYSTEM = "SELECT"

UPGRADE: list[str] = statements_of(
    [
        # Without a foreign key to tenants and users: what was erased must be told when they are gone.
        """
        CREATE TABLE auth.erasures (
            tenant_id uuid NOT NULL,
            id uuid NOT NULL,
            user_id uuid,
            requested_by text NOT NULL,
            transfer_to uuid,
            state text NOT NULL DEFAULT 'requested' CHECK (state IN ('requested', 'running', 'completed', 'failed')),
            token_hash bytea CONSTRAINT erasures_token UNIQUE,
            requested_at timestamptz NOT NULL,
            asked_at timestamptz NOT NULL,
            deadline_at timestamptz NOT NULL,
            completed_at timestamptz,
            receipt text NOT NULL DEFAULT '',
            signature text NOT NULL DEFAULT '',
            public_key text NOT NULL DEFAULT '',
            PRIMARY KEY (tenant_id, id),
            CHECK ((state = 'completed') = (completed_at IS NOT NULL)),
            CHECK ((state = 'completed') = (receipt <> ''))
        )
        """,
        "CREATE INDEX erasures_open ON auth.erasures (asked_at) WHERE completed_at IS NULL",
    ],
    tenant_table("auth", "erasures", system=_READ_ONLY_FOR_SYSTEM),
    [
        # One row for each service; `done_at` NULL: it has not answered.
        """
        CREATE TABLE auth.erasure_parts (
            tenant_id uuid NOT NULL,
            erasure_id uuid NOT NULL,
            part text NOT NULL,
            done_at timestamptz,
            counts jsonb NOT NULL DEFAULT '{}',
            receipt_sha256 text NOT NULL DEFAULT '',
            signature text NOT NULL DEFAULT '',
            public_key text NOT NULL DEFAULT '',
            PRIMARY KEY (tenant_id, erasure_id, part),
            FOREIGN KEY (tenant_id, erasure_id) REFERENCES auth.erasures (tenant_id, id) ON DELETE CASCADE
        )
        """,
    ],
    tenant_table("auth", "erasure_parts", system=_READ_ONLY_FOR_SYSTEM),
    [
        # The key that signs receipts, encrypted under the master secret.
        """
        CREATE TABLE auth.receipt_keys (
            singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
            sealed bytea NOT NULL,
            created_at timestamptz NOT NULL
        )
        """,
    ],
    system_table("auth", "receipt_keys", system="SELECT, INSERT"),
    [
        # What strangers and logins left behind of an address belongs to no tenant: the owner of the tables forgets it.
        """
        CREATE FUNCTION auth.forget_address(address text, address_key bytea) RETURNS void
        LANGUAGE sql SECURITY DEFINER SET search_path = auth, pg_temp AS $$
            DELETE FROM login_attempts WHERE key = address_key;
            DELETE FROM reset_requests WHERE email = address;
        $$
        """,
        "REVOKE ALL ON FUNCTION auth.forget_address(text, bytea) FROM PUBLIC",
        "GRANT EXECUTE ON FUNCTION auth.forget_address(text, bytea) TO auth_app",
        # What the trail says of one user.
        "CREATE INDEX audit_records_subject ON auth.audit_records (tenant_id, subject, sequence)",
    ],
)
DOWNGRADE: list[str] = [
    "DROP INDEX auth.audit_records_subject",
    "DROP FUNCTION auth.forget_address(text, bytea)",
    "DROP TABLE auth.receipt_keys",
    "DROP TABLE auth.erasure_parts",
    "DROP TABLE auth.erasures",
]


def upgrade() -> None:
    for statement in UPGRADE:
        op.execute(statement)


def downgrade() -> None:
    for statement in DOWNGRADE:
        op.execute(statement)
