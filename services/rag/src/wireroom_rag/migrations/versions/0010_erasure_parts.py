"""Erasures by users and tenants."""

from __future__ import annotations

from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

UPGRADE: list[str] = [
    "ALTER TABLE rag.erasures ADD COLUMN transfer_to uuid, ADD COLUMN transferred bigint NOT NULL DEFAULT 0",
    "CREATE INDEX erasures_user ON rag.erasures (tenant_id, user_id)",
    # Once for each statement: an erasure changes the documents of an owner by the ten thousands, and a row that is changed so often in one
    # transaction becomes slow to change. A document that changes hands counts for another owner; for the tenant nothing changes.
    """
    CREATE FUNCTION rag.count_changes() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        WITH changes AS (
            SELECT tenant_id, owner_id, sum(one) AS documents, sum(one * bytes) AS bytes FROM (
                SELECT tenant_id, owner_id, bytes, -1 AS one FROM before WHERE kind = 'document' AND deleted_at IS NULL
                UNION ALL
                SELECT tenant_id, owner_id, bytes, 1 FROM after WHERE kind = 'document' AND deleted_at IS NULL
            ) AS entry GROUP BY tenant_id, owner_id HAVING sum(one) <> 0 OR sum(one * bytes) <> 0
        )
        INSERT INTO rag.usage AS u (tenant_id, owner_id, documents, bytes)
        SELECT tenant_id, owner_id, documents, bytes FROM changes
        UNION ALL
        SELECT tenant_id, '00000000-0000-0000-0000-000000000000', sum(documents), sum(bytes) FROM changes GROUP BY tenant_id
        -- The tenant's row first, always, then the owners' in one order: two transactions cannot wait for each other.
        ORDER BY tenant_id, owner_id
        ON CONFLICT (tenant_id, owner_id) DO UPDATE
            SET documents = u.documents + excluded.documents, bytes = u.bytes + excluded.bytes;
        RETURN NULL;
    END $$
    """,
    "DROP TRIGGER documents_counted ON rag.documents",
    """
    CREATE TRIGGER documents_counted AFTER INSERT OR DELETE ON rag.documents
        FOR EACH ROW EXECUTE FUNCTION rag.count_documents()
    """,
    """
    CREATE TRIGGER documents_changed AFTER UPDATE ON rag.documents REFERENCING OLD TABLE AS before NEW TABLE AS after
        FOR EACH STATEMENT EXECUTE FUNCTION rag.count_changes()
    """,
]
DOWNGRADE: list[str] = [
    "DROP TRIGGER documents_changed ON rag.documents",
    "DROP TRIGGER documents_counted ON rag.documents",
    """
    CREATE TRIGGER documents_counted AFTER INSERT OR DELETE OR UPDATE OF bytes, deleted_at ON rag.documents
        FOR EACH ROW EXECUTE FUNCTION rag.count_documents()
    """,
    "DROP FUNCTION rag.count_changes()",
    "DROP INDEX rag.erasures_user",
    "ALTER TABLE rag.erasures DROP COLUMN transferred, DROP COLUMN transfer_to",
]


def upgrade() -> None:
    for statement in UPGRADE:
        op.execute(statement)


def downgrade() -> None:
    for statement in DOWNGRADE:
        op.execute(statement)
