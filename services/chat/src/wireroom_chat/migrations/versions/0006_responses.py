"""Stored responses."""

from alembic import op

from wireroom_common.db.schema import statements_of, tenant_table

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

UPGRADE: list[str] = statements_of(
    [
        """
        CREATE TABLE chat.responses (
            tenant_id uuid NOT NULL,
            id uuid NOT NULL,
            user_id uuid NOT NULL,
            previous_id uuid,
            created_at timestamptz NOT NULL,
            items bytea NOT NULL,
            response bytea NOT NULL,
            PRIMARY KEY (tenant_id, id)
        )
        """,
        "CREATE INDEX responses_age ON chat.responses (created_at)",
        "CREATE INDEX responses_owner ON chat.responses (tenant_id, user_id)",
    ],
    tenant_table("chat", "responses", system="SELECT, UPDATE, DELETE"),
)
DOWNGRADE: list[str] = ["DROP TABLE chat.responses"]


def upgrade() -> None:
    for statement in UPGRADE:
        op.execute(statement)


def downgrade() -> None:
    for statement in DOWNGRADE:
        op.execute(statement)
