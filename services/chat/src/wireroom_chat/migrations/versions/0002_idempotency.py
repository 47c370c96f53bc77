"""Effects that were made under an idempotency key."""

from alembic import op

from wireroom_common.db.schema import idempotency_table

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

UPGRADE: list[str] = idempotency_table("chat")
DOWNGRADE: list[str] = ["DROP TABLE chat.idempotency"]


def upgrade() -> None:
    for statement in UPGRADE:
        op.execute(statement)


def downgrade() -> None:
    for statement in DOWNGRADE:
        op.execute(statement)
