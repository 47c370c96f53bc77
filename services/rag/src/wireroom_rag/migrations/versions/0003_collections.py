"""Collections: named sets of documents."""

from __future__ import annotations

from alembic import op

from wireroom_common.db.schema import statements_of, tenant_table

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_TABLES = [
    """
    CREATE TABLE rag.collections (
        tenant_id uuid NOT NULL,
        id uuid NOT NULL,
        owner_id uuid NOT NULL,
        name text NOT NULL,
        description text NOT NULL DEFAULT '',
        visibility text NOT NULL CHECK (visibility IN ('private', 'tenant')),
        metadata jsonb NOT NULL DEFAULT '{}'
            CHECK (jsonb_typeof(metadata) = 'object' AND octet_length(CAST(metadata AS text)) <= 65536),
        created_at timestamptz NOT NULL DEFAULT now(),
        updated_at timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (tenant_id, id)
    )
    """,
    "CREATE INDEX collections_name ON rag.collections (tenant_id, name)",
    """
    CREATE TABLE rag.collection_documents (
        tenant_id uuid NOT NULL,
        collection_id uuid NOT NULL,
        document_id uuid NOT NULL,
        attributes jsonb NOT NULL DEFAULT '{}'
            CHECK (jsonb_typeof(attributes) = 'object' AND octet_length(CAST(attributes AS text)) <= 65536),
        added_at timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (tenant_id, collection_id, document_id),
        FOREIGN KEY (tenant_id, collection_id) REFERENCES rag.collections (tenant_id, id) ON DELETE CASCADE,
        FOREIGN KEY (tenant_id, document_id) REFERENCES rag.documents (tenant_id, id) ON DELETE CASCADE
    )
    """,
    "CREATE INDEX collection_documents_document ON rag.collection_documents (tenant_id, document_id)",
]
UPGRADE: list[str] = statements_of(_TABLES, tenant_table("rag", "collections"), tenant_table("rag", "collection_documents"))
DOWNGRADE: list[str] = ["DROP TABLE rag.collection_documents", "DROP TABLE rag.collections"]


def upgrade() -> None:
    for statement in UPGRADE:
        op.execute(statement)


def downgrade() -> None:
    for statement in DOWNGRADE:
        op.execute(statement)
