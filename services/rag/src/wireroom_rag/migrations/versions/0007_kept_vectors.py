"""Vectors of texts that were embedded before."""

from __future__ import annotations

from alembic import op

from wireroom_common.db.schema import statements_of, tenant_table

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_TABLE = [
    # `model`: a hash of what else a vector depends on. Of each tenant its own: whether another has the same text is nobody's business.
    """
    CREATE TABLE rag.kept_vectors (
        tenant_id uuid NOT NULL,
        text_sha256 bytea NOT NULL CHECK (octet_length(text_sha256) = 32),
        model bytea NOT NULL CHECK (octet_length(model) = 16),
        vector bytea NOT NULL CHECK (octet_length(vector) <= 65536),
        used_on date NOT NULL DEFAULT current_date,
        PRIMARY KEY (tenant_id, text_sha256, model)
    )
    """,
    "CREATE INDEX kept_vectors_age ON rag.kept_vectors (used_on)",
]
UPGRADE: list[str] = statements_of(_TABLE, tenant_table("rag", "kept_vectors", system="SELECT, DELETE"))
DOWNGRADE: list[str] = ["DROP TABLE rag.kept_vectors"]


def upgrade() -> None:
    for statement in UPGRADE:
        op.execute(statement)


def downgrade() -> None:
    for statement in DOWNGRADE:
        op.execute(statement)
