"""File batches and what collections ask of their texts."""

from __future__ import annotations

from alembic import op

from wireroom_common.db.schema import statements_of, tenant_table

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

_PROVIDERS = [
    # Names of providers that may receive its texts; none for any.
    "ALTER TABLE rag.collections ADD COLUMN providers text[] NOT NULL DEFAULT '{}' CHECK (cardinality(providers) <= 20)",
]
_BATCHES = [
    """
    CREATE TABLE rag.file_batches (
        tenant_id uuid NOT NULL,
        id uuid NOT NULL,
        collection_id uuid NOT NULL,
        owner_id uuid NOT NULL,
        cancelled boolean NOT NULL DEFAULT false,
        created_at timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (tenant_id, id),
        FOREIGN KEY (tenant_id, collection_id) REFERENCES rag.collections (tenant_id, id) ON DELETE CASCADE
    )
    """,
    "CREATE INDEX file_batches_collection ON rag.file_batches (tenant_id, collection_id)",
    # Also of documents that are gone: a batch counts what it was made of.
    """
    CREATE TABLE rag.file_batch_documents (
        tenant_id uuid NOT NULL,
        batch_id uuid NOT NULL,
        document_id uuid NOT NULL,
        PRIMARY KEY (tenant_id, batch_id, document_id),
        FOREIGN KEY (tenant_id, batch_id) REFERENCES rag.file_batches (tenant_id, id) ON DELETE CASCADE
    )
    """,
]
UPGRADE: list[str] = statements_of(
    _PROVIDERS, _BATCHES, tenant_table("rag", "file_batches"), tenant_table("rag", "file_batch_documents")
)
DOWNGRADE: list[str] = [
    "DROP TABLE rag.file_batch_documents",
    "DROP TABLE rag.file_batches",
    "ALTER TABLE rag.collections DROP COLUMN providers",
]


def upgrade() -> None:
    for statement in UPGRADE:
        op.execute(statement)


def downgrade() -> None:
    for statement in DOWNGRADE:
        op.execute(statement)
