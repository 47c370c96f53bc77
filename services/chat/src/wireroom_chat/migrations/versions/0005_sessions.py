"""Chat sessions, messages and feedback."""

from alembic import op

from wireroom_common.db.schema import statements_of, tenant_table

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

UPGRADE: list[str] = statements_of(
    [
        """
        CREATE TABLE chat.sessions (
            tenant_id uuid NOT NULL,
            id uuid NOT NULL,
            owner_id uuid NOT NULL,
            title text NOT NULL,
            model text NOT NULL,
            assistant text NOT NULL,
            grounding jsonb,
            archived boolean NOT NULL DEFAULT false,
            message_count integer NOT NULL DEFAULT 0,
            version bigint NOT NULL DEFAULT 1,
            summary text NOT NULL DEFAULT '',
            summary_through bigint NOT NULL DEFAULT 0,
            turn_message_id uuid,
            turn_until timestamptz,
            erase_reason text NOT NULL DEFAULT '',
            created_at timestamptz NOT NULL,
            updated_at timestamptz NOT NULL,
            PRIMARY KEY (tenant_id, id),
            CHECK ((turn_message_id IS NULL) = (turn_until IS NULL))
        )
        """,
        "CREATE INDEX sessions_of_owner ON chat.sessions (tenant_id, owner_id, updated_at DESC, id DESC)",
        "CREATE INDEX sessions_age ON chat.sessions (updated_at)",
        "CREATE INDEX sessions_to_erase ON chat.sessions (tenant_id, id) WHERE erase_reason <> ''",
        "CREATE INDEX sessions_turns ON chat.sessions (turn_until) WHERE turn_until IS NOT NULL",
        # Row-level security lets no index answer `@@` (the operator is not leakproof), so there is no GIN index: a search reads the
        # stored vectors of one owner, which `messages_of_owner` finds.
        """
        CREATE TABLE chat.messages (
            tenant_id uuid NOT NULL,
            id uuid NOT NULL,
            session_id uuid NOT NULL,
            owner_id uuid NOT NULL,
            number bigint NOT NULL CHECK (number > 0),
            role text NOT NULL CHECK (role IN ('user', 'assistant', 'tool', 'system')),
            content text NOT NULL,
            annotations jsonb NOT NULL DEFAULT '[]',
            completion_id text NOT NULL DEFAULT '',
            status text NOT NULL CHECK (status IN ('streaming', 'completed', 'failed', 'cancelled')),
            finish_reason text NOT NULL DEFAULT '',
            error_code text NOT NULL DEFAULT '',
            model text NOT NULL DEFAULT '',
            answer_mode text NOT NULL DEFAULT '',
            tokens_in integer NOT NULL DEFAULT 0,
            tokens_out integer NOT NULL DEFAULT 0,
            created_at timestamptz NOT NULL,
            finished_at timestamptz,
            search tsvector GENERATED ALWAYS AS (to_tsvector('simple', left(content, 100000))) STORED,
            PRIMARY KEY (tenant_id, id),
            UNIQUE (tenant_id, session_id, number),
            FOREIGN KEY (tenant_id, session_id) REFERENCES chat.sessions (tenant_id, id) ON DELETE CASCADE,
            CHECK ((status = 'streaming') = (finished_at IS NULL))
        )
        """,
        "CREATE INDEX messages_of_owner ON chat.messages (tenant_id, owner_id)",
        """
        CREATE TABLE chat.feedback (
            tenant_id uuid NOT NULL,
            message_id uuid NOT NULL,
            user_id uuid NOT NULL,
            score smallint NOT NULL CHECK (score IN (-1, 1)),
            tags text[] NOT NULL DEFAULT '{}',
            comment text NOT NULL DEFAULT '',
            created_at timestamptz NOT NULL,
            PRIMARY KEY (tenant_id, message_id, user_id),
            FOREIGN KEY (tenant_id, message_id) REFERENCES chat.messages (tenant_id, id) ON DELETE CASCADE
        )
        """,
    ],
    tenant_table("chat", "sessions", system="SELECT, UPDATE, DELETE"),
    tenant_table("chat", "messages", system="SELECT, UPDATE"),
    tenant_table("chat", "feedback"),
)
DOWNGRADE: list[str] = ["DROP TABLE chat.feedback", "DROP TABLE chat.messages", "DROP TABLE chat.sessions"]


def upgrade() -> None:
    for statement in UPGRADE:
        op.execute(statement)


def downgrade() -> None:
    for statement in DOWNGRADE:
        op.execute(statement)
