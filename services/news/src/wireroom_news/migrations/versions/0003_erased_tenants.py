"""Tenants that were erased: nothing is added to them any more."""

from __future__ import annotations

from alembic import op

from wireroom_common.db.schema import statements_of, tenant_table

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

UPGRADE: list[str] = statements_of(
    [
        """
        CREATE TABLE news.erased_tenants (
            tenant_id uuid PRIMARY KEY,
            erasure_id uuid NOT NULL,
            feeds bigint NOT NULL,
            articles bigint NOT NULL,
            erased_at timestamptz NOT NULL DEFAULT now()
        )
        """
    ],
    tenant_table("news", "erased_tenants"),
)
DOWNGRADE: list[str] = ["DROP TABLE news.erased_tenants"]


def upgrade() -> None:
    for statement in UPGRADE:
        op.execute(statement)


def downgrade() -> None:
    for statement in DOWNGRADE:
        op.execute(statement)
