"""Effects that were made under an idempotency key."""

from alembic import op

from wireroom_common.db.schema import idempotency_table

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

UPGRADE: list[str] = idempotency_table("monitoring")
DOWNGRADE: list[str] = ["DROP TABLE monitoring.idempotency"]


def upgrade() -> None:
    for statement in UPGRADE:
        op.execute(statement)


def downgrade() -> None:
    for statement in DOWNGRADE:
        op.execute(statement)
