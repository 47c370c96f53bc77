"""Versions of API keys' terms, by which consumers of their events know the newer one."""

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

UPGRADE: list[str] = ["ALTER TABLE auth.api_keys ADD COLUMN version bigint NOT NULL DEFAULT 1"]
DOWNGRADE: list[str] = ["ALTER TABLE auth.api_keys DROP COLUMN version"]


def upgrade() -> None:
    for statement in UPGRADE:
        op.execute(statement)


def downgrade() -> None:
    for statement in DOWNGRADE:
        op.execute(statement)
