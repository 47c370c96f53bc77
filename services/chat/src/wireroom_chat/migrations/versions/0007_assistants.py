"""Assistants, their versions, and artefacts of tools."""

from alembic import op

from wireroom_common.db.schema import tenant_table

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

UPGRADE: list[str] = [
    """
    CREATE TABLE chat.assistants (
        tenant_id uuid NOT NULL,
        name text NOT NULL,
        weights jsonb NOT NULL,
        last_version integer NOT NULL,
        created_at timestamptz NOT NULL,
        updated_at timestamptz NOT NULL,
        -- Its versions stay: records of usage name them, and their numbers are not given again.
        deleted_at timestamptz,
        PRIMARY KEY (tenant_id, name)
    )
    """,
    *tenant_table("chat", "assistants"),
    """
    CREATE TABLE chat.assistant_versions (
        tenant_id uuid NOT NULL,
        assistant text NOT NULL,
        number integer NOT NULL CHECK (number > 0),
        config jsonb NOT NULL,
        created_at timestamptz NOT NULL,
        created_by uuid NOT NULL,
        PRIMARY KEY (tenant_id, assistant, number),
        FOREIGN KEY (tenant_id, assistant) REFERENCES chat.assistants (tenant_id, name)
    )
    """,
    *tenant_table("chat", "assistant_versions"),
    "REVOKE UPDATE, DELETE ON chat.assistant_versions FROM chat_app",
    "REVOKE DELETE ON chat.assistants FROM chat_app",
    """
    CREATE TABLE chat.artefacts (
        tenant_id uuid NOT NULL,
        id uuid NOT NULL,
        user_id uuid NOT NULL,
        name text NOT NULL,
        media_type text NOT NULL,
        data bytea NOT NULL,
        created_at timestamptz NOT NULL,
        expires_at timestamptz NOT NULL,
        PRIMARY KEY (tenant_id, id)
    )
    """,
    "CREATE INDEX artefacts_owner ON chat.artefacts (tenant_id, user_id, id)",
    "CREATE INDEX artefacts_expiry ON chat.artefacts (expires_at)",
    *tenant_table("chat", "artefacts", system="SELECT, DELETE"),
]
DOWNGRADE: list[str] = ["DROP TABLE chat.artefacts", "DROP TABLE chat.assistant_versions", "DROP TABLE chat.assistants"]


def upgrade() -> None:
    for statement in UPGRADE:
        op.execute(statement)


def downgrade() -> None:
    for statement in DOWNGRADE:
        op.execute(statement)
