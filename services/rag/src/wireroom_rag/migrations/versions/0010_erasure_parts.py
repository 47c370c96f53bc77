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
    # A document that changes hands counts for another owner; for the tenant nothing changes.
    """
    CREATE FUNCTION rag.count_transfers() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        -- The tenant's row first, always, then the owners' in one order: two transactions cannot wait for each other.
        PERFORM 1 FROM rag.usage WHERE tenant_id = NEW.tenant_id AND owner_id = '00000000-0000-0000-0000-000000000000' FOR UPDATE;
        INSERT INTO rag.usage AS u (tenant_id, owner_id, documents, bytes)
        SELECT NEW.tenant_id, moved.owner, moved.documents, moved.documents * NEW.bytes
          FROM (VALUES (OLD.owner_id, -1), (NEW.owner_id, 1)) AS moved (owner, documents) ORDER BY moved.owner
        ON CONFLICT (tenant_id, owner_id) DO UPDATE
            SET documents = u.documents + excluded.documents, bytes = u.bytes + excluded.bytes;
        RETURN NULL;
    END $$
    """,
    """
    CREATE TRIGGER documents_transferred AFTER UPDATE OF owner_id ON rag.documents FOR EACH ROW
        WHEN (OLD.owner_id IS DISTINCT FROM NEW.owner_id AND NEW.kind = 'document' AND NEW.deleted_at IS NULL)
        EXECUTE FUNCTION rag.count_transfers()
    """,
]
DOWNGRADE: list[str] = [
    "DROP TRIGGER documents_transferred ON rag.documents",
    "DROP FUNCTION rag.count_transfers()",
    "DROP INDEX rag.erasures_user",
    "ALTER TABLE rag.erasures DROP COLUMN transferred, DROP COLUMN transfer_to",
]


def upgrade() -> None:
    for statement in UPGRADE:
        op.execute(statement)


def downgrade() -> None:
    for statement in DOWNGRADE:
        op.execute(statement)
