"""Providers, their keys and aliases as managed by API, and the incidents of their circuits."""

from alembic import op

from wireroom_common.db.schema import statements_of, system_table

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

UPGRADE: list[str] = statements_of(
    [
        """
        CREATE TABLE chat.providers (
            name text PRIMARY KEY,
            document jsonb NOT NULL,
            updated_at timestamptz NOT NULL DEFAULT now(),
            updated_by text NOT NULL
        )
        """,
        """
        CREATE TABLE chat.provider_keys (
            provider text NOT NULL REFERENCES chat.providers (name) ON DELETE CASCADE,
            name text NOT NULL,
            key_sealed bytea NOT NULL,
            updated_at timestamptz NOT NULL DEFAULT now(),
            PRIMARY KEY (provider, name)
        )
        """,
        """
        CREATE TABLE chat.model_aliases (
            name text PRIMARY KEY,
            document jsonb NOT NULL,
            updated_at timestamptz NOT NULL DEFAULT now(),
            updated_by text NOT NULL
        )
        """,
        """
        CREATE TABLE chat.provider_revision (
            singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
            revision bigint NOT NULL
        )
        """,
        "INSERT INTO chat.provider_revision (revision) VALUES (0)",
        """
        CREATE TABLE chat.provider_incidents (
            provider text NOT NULL,
            model text NOT NULL,
            key text NOT NULL,
            since timestamptz NOT NULL DEFAULT now(),
            PRIMARY KEY (provider, model, key)
        )
        """,
    ],
    system_table("chat", "providers"),
    system_table("chat", "provider_keys"),
    system_table("chat", "model_aliases"),
    system_table("chat", "provider_revision", system="SELECT, UPDATE"),
    system_table("chat", "provider_incidents"),
)
DOWNGRADE: list[str] = [
    "DROP TABLE chat.provider_incidents",
    "DROP TABLE chat.provider_revision",
    "DROP TABLE chat.model_aliases",
    "DROP TABLE chat.provider_keys",
    "DROP TABLE chat.providers",
]


def upgrade() -> None:
    for statement in UPGRADE:
        op.execute(statement)


def downgrade() -> None:
    for statement in DOWNGRADE:
        op.execute(statement)
