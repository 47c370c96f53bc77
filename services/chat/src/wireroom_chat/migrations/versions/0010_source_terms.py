"""Which providers may be told again what was answered from sources."""

from __future__ import annotations

from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

# Lists of names: a provider must be in each of them.
UPGRADE = [
    "ALTER TABLE chat.sessions ADD COLUMN source_terms jsonb NOT NULL DEFAULT '[]'",
    "ALTER TABLE chat.responses ADD COLUMN source_terms jsonb NOT NULL DEFAULT '[]'",
]
DOWNGRADE = ["ALTER TABLE chat.responses DROP COLUMN source_terms", "ALTER TABLE chat.sessions DROP COLUMN source_terms"]


def upgrade() -> None:
    for statement in UPGRADE:
        op.execute(statement)


def downgrade() -> None:
    for statement in DOWNGRADE:
        op.execute(statement)
