"""The audit chain and blocked addresses."""

from alembic import op

from wireroom_common.db.schema import statements_of, system_table, tenant_table

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

# Tenants read their own chain; only the consumer, as the system role, appends. Nobody but the owner changes or deletes.
_READ_ONLY_FOR_APP = "REVOKE INSERT, UPDATE, DELETE ON auth.{table} FROM auth_app"

UPGRADE: list[str] = statements_of(
    [
        # Without a foreign key to the tenants: records outlive the tenant, and the installation's own chain has the nil UUID.
        """
        CREATE TABLE auth.audit_records (
            tenant_id uuid NOT NULL,
            sequence bigint NOT NULL CHECK (sequence > 0),
            id uuid NOT NULL,
            occurred_at timestamptz NOT NULL,
            actor text NOT NULL,
            action text NOT NULL,
            subject text NOT NULL,
            outcome text NOT NULL,
            client_ip text NOT NULL,
            request_id text NOT NULL,
            details text NOT NULL,
            previous_hash bytea NOT NULL,
            hash bytea NOT NULL,
            PRIMARY KEY (tenant_id, sequence),
            CONSTRAINT audit_records_fact UNIQUE (tenant_id, id)
        )
        """,
        "CREATE INDEX audit_records_action ON auth.audit_records (tenant_id, action, sequence)",
        "CREATE INDEX audit_records_actor ON auth.audit_records (tenant_id, actor, sequence)",
    ],
    tenant_table("auth", "audit_records", system="SELECT, INSERT"),
    [_READ_ONLY_FOR_APP.format(table="audit_records")],
    [
        """
        CREATE TABLE auth.audit_heads (
            tenant_id uuid PRIMARY KEY,
            sequence bigint NOT NULL,
            hash bytea NOT NULL,
            verified_at timestamptz
        ) WITH (fillfactor = 50)
        """,
    ],
    tenant_table("auth", "audit_heads", system="SELECT, INSERT, UPDATE"),
    [_READ_ONLY_FOR_APP.format(table="audit_heads")],
    [
        # The key of the chains, encrypted under the master secret.
        """
        CREATE TABLE auth.audit_keys (
            singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
            sealed bytea NOT NULL,
            created_at timestamptz NOT NULL
        )
        """,
    ],
    system_table("auth", "audit_keys", system="SELECT, INSERT"),
    [
        """
        CREATE TABLE auth.address_blocks (
            id uuid PRIMARY KEY,
            network text NOT NULL,
            principal text NOT NULL,
            violations integer NOT NULL,
            reason text NOT NULL,
            blocked_by text NOT NULL,
            blocked_at timestamptz NOT NULL,
            until timestamptz NOT NULL,
            ended_at timestamptz
        )
        """,
        # One block in force per address and principal; an expired one is ended before the next is made.
        "CREATE UNIQUE INDEX address_blocks_live ON auth.address_blocks (network, principal) WHERE ended_at IS NULL",
        "CREATE INDEX address_blocks_until ON auth.address_blocks (until)",
    ],
    system_table("auth", "address_blocks"),
)
DOWNGRADE: list[str] = [
    "DROP TABLE auth.address_blocks",
    "DROP TABLE auth.audit_keys",
    "DROP TABLE auth.audit_heads",
    "DROP TABLE auth.audit_records",
]


def upgrade() -> None:
    for statement in UPGRADE:
        op.execute(statement)


def downgrade() -> None:
    for statement in DOWNGRADE:
        op.execute(statement)
