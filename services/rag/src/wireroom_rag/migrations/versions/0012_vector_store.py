"""Vectors in another store: which generation has its own where, and what is still to be removed there."""

from __future__ import annotations

from alembic import op

from wireroom_common.db.schema import statements_of, tenant_table

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

_GENERATIONS = [
    "ALTER TABLE rag.generations ADD COLUMN store text NOT NULL DEFAULT 'postgresql' CHECK (store <> '')",
    # When its vectors in another store are compacted next.
    "ALTER TABLE rag.generations ADD COLUMN upkeep_at timestamptz NOT NULL DEFAULT now()",
    "CREATE INDEX generations_upkeep ON rag.generations (upkeep_at) WHERE store <> 'postgresql' AND state IN ('building', 'serving')",
    "GRANT UPDATE (upkeep_at) ON rag.generations TO rag_system",
    "ALTER TABLE rag.chunks ALTER COLUMN embedding DROP NOT NULL",
]
_REMOVALS = [
    # Ids whose vectors may stand in another store and must not any more, or (due later) are being written just now.
    """
    CREATE TABLE rag.vector_removals (
        tenant_id uuid NOT NULL,
        id uuid NOT NULL,
        generation integer NOT NULL,
        document_id uuid NOT NULL,
        chunk_ids bigint[] NOT NULL,
        due_at timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (tenant_id, id)
    )
    """,
    "CREATE INDEX vector_removals_due ON rag.vector_removals (due_at)",
    "CREATE INDEX vector_removals_document ON rag.vector_removals (tenant_id, document_id)",
]
UPGRADE: list[str] = statements_of(_GENERATIONS, _REMOVALS, tenant_table("rag", "vector_removals", system="SELECT"))
# The older code knows vectors in PostgreSQL only: an index with vectors elsewhere is empty until it is rebuilt from the stored texts.
DOWNGRADE: list[str] = [
    "DROP TABLE rag.vector_removals",
    "DELETE FROM rag.chunks WHERE embedding IS NULL",
    *(
        f"""
        DELETE FROM rag.{table} i USING rag.generations g
         WHERE g.tenant_id = i.tenant_id AND g.number = i.generation AND g.store <> 'postgresql'
        """  # noqa: S608 - constants
        for table in ("posting_blocks", "indexed_stems", "index_statistics")
    ),
    "ALTER TABLE rag.chunks ALTER COLUMN embedding SET NOT NULL",
    "DROP INDEX rag.generations_upkeep",
    "ALTER TABLE rag.generations DROP COLUMN store, DROP COLUMN upkeep_at",
]


def upgrade() -> None:
    for statement in UPGRADE:
        op.execute(statement)


def downgrade() -> None:
    for statement in DOWNGRADE:
        op.execute(statement)
