"""Generations, outbox and inbox."""

from alembic import op

from wireroom_common.db.schema import messaging_tables, statements_of, tenant_table

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    for statement in statements_of(
        messaging_tables("chat"),
        [
            """
            CREATE TABLE chat.generations (
                tenant_id uuid NOT NULL,
                id uuid NOT NULL,
                user_id uuid NOT NULL,
                completion_id text NOT NULL,
                model text NOT NULL,
                provider text NOT NULL,
                status text NOT NULL CHECK (status IN ('running', 'completed', 'failed', 'cancelled')),
                answer_mode text NOT NULL DEFAULT '',
                error_code text NOT NULL DEFAULT '',
                tokens_in integer NOT NULL DEFAULT 0,
                tokens_out integer NOT NULL DEFAULT 0,
                citations integer NOT NULL DEFAULT 0,
                first_token_ms bigint,
                started_at timestamptz NOT NULL,
                finished_at timestamptz,
                PRIMARY KEY (tenant_id, id),
                CHECK ((status = 'running') = (finished_at IS NULL))
            )
            """,
            "CREATE INDEX generations_running ON chat.generations (started_at) WHERE status = 'running'",
        ],
        tenant_table("chat", "generations", system="SELECT, UPDATE"),
    ):
        op.execute(statement)


def downgrade() -> None:
    for statement in (
        "DROP TABLE chat.generations",
        "DROP TABLE chat.deliveries",
        "DROP TABLE chat.inbox",
        "DROP TABLE chat.outbox",
        "DROP FUNCTION chat.outbox_notify()",
    ):
        op.execute(statement)
