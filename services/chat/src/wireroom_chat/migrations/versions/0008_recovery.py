"""Whether the sources of an answer could be searched, and what is booked of one whose process died."""

from __future__ import annotations

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

UPGRADE = [
    "ALTER TABLE chat.generations ADD COLUMN retrieval text NOT NULL DEFAULT ''",
    # The first call of a provider, while the generation runs.
    "ALTER TABLE chat.generations ADD COLUMN checkpoint jsonb",
]
DOWNGRADE = ["ALTER TABLE chat.generations DROP COLUMN checkpoint", "ALTER TABLE chat.generations DROP COLUMN retrieval"]


def upgrade() -> None:
    for statement in UPGRADE:
        op.execute(statement)


def downgrade() -> None:
    for statement in DOWNGRADE:
        op.execute(statement)
