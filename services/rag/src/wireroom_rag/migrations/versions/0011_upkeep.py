"""Files that are still to be deleted, and where the listing of the blob store goes on."""

from __future__ import annotations

from alembic import op

from wireroom_common.db.schema import statements_of, system_table, tenant_table

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

_TABLES = [
    # The version's row is gone: only this one knows the file, and whose it was (an erasure waits for it).
    """
    CREATE TABLE rag.dropped_files (
        tenant_id uuid NOT NULL,
        blob_key text NOT NULL,
        owner_id uuid NOT NULL,
        dropped_at timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (tenant_id, blob_key)
    )
    """,
    "CREATE INDEX dropped_files_age ON rag.dropped_files (dropped_at)",
    "CREATE TABLE rag.sweeps (name text PRIMARY KEY, position text NOT NULL)",
]
UPGRADE: list[str] = statements_of(
    _TABLES,
    tenant_table("rag", "dropped_files", system="SELECT, DELETE"),
    system_table("rag", "sweeps"),
    [
        # Whoever follows a document is told when it may not be read any more.
        "GRANT SELECT (readers) ON rag.documents TO rag_system",
        "GRANT SELECT (user_id) ON rag.erasures TO rag_system",
    ],
)
# Files that are still to be deleted have no row any more: the older code's sweep finds them.
DOWNGRADE: list[str] = [
    "REVOKE SELECT (user_id) ON rag.erasures FROM rag_system",
    "REVOKE SELECT (readers) ON rag.documents FROM rag_system",
    "DROP TABLE rag.sweeps",
    "DROP TABLE rag.dropped_files",
]


def upgrade() -> None:
    for statement in UPGRADE:
        op.execute(statement)


def downgrade() -> None:
    for statement in DOWNGRADE:
        op.execute(statement)
