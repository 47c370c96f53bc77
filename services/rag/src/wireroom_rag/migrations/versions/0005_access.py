"""Who may read documents and collections; quotas; deletion, retention and erasure.

Revision ID: 0005
Revises: 0004
"""

from __future__ import annotations

from alembic import op

from wireroom_common.db.schema import TENANT_EXPRESSION, statements_of, tenant_table

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

# What the transaction may read, set by `adapters.connections`: tokens, or `worker` for the service's own work. Without it: nothing.
# Scalar subqueries, so that the text is taken apart once per statement and not once per row.
_READERS = "(SELECT string_to_array(current_setting('wireroom.readers', true), chr(31)))"
_WORKER = "(SELECT 'worker' = ANY(string_to_array(current_setting('wireroom.readers', true), chr(31))))"
_STATED = "(SELECT current_setting('wireroom.readers', true) <> '')"
_TENANT = f"tenant_id = {TENANT_EXPRESSION}"
_TABLES = ("documents", "document_versions", "chunks", "postings")


def _policy(table: str, using: str) -> list[str]:
    return [
        f"DROP POLICY app_tenant ON rag.{table}",
        f"CREATE POLICY app_readers ON rag.{table} TO rag_app USING ({_TENANT} AND ({using})) WITH CHECK ({_TENANT})",
    ]


def _of_document(table: str) -> str:
    # The documents' own policy decides. By one column, so that a scan of many rows asks a hash table and not the index each time.
    # Articles are many, belong to nobody and are never hidden from who may read news.
    return (
        f"{_WORKER} OR (kind = 'article' AND {_STATED}) OR EXISTS (SELECT 1 FROM rag.documents d"  # noqa: S608 - constants
        f" WHERE d.{_TENANT} AND d.id = rag.{table}.document_id AND d.kind = 'document' AND d.deleted_at IS NULL)"
    )


_COLLECTIONS = [
    # NULL: the installation's default. Grants are `user:<id>` and `role:<name>`.
    """
    ALTER TABLE rag.collections
        ADD COLUMN reader_grants text[] NOT NULL DEFAULT '{}' CHECK (cardinality(reader_grants) <= 200),
        ADD COLUMN editor_grants text[] NOT NULL DEFAULT '{}' CHECK (cardinality(editor_grants) <= 200),
        ADD COLUMN acl_version bigint NOT NULL DEFAULT 1,
        ADD COLUMN max_documents bigint CHECK (max_documents >= 0),
        ADD COLUMN max_bytes bigint CHECK (max_bytes >= 0),
        ADD COLUMN retention_days integer CHECK (retention_days > 0),
        ADD COLUMN expires_days integer CHECK (expires_days > 0),
        ADD COLUMN last_active_at timestamptz NOT NULL DEFAULT now()
    """,
    """
    ALTER TABLE rag.collections ADD COLUMN readers text[] NOT NULL GENERATED ALWAYS AS (
        ARRAY['manager', 'user:' || CAST(owner_id AS text)]
        || CASE WHEN visibility = 'tenant' THEN ARRAY['*'] ELSE CAST('{}' AS text[]) END || reader_grants || editor_grants) STORED
    """,
    "CREATE POLICY system_all ON rag.collections TO rag_system USING (true)",
    """
    GRANT SELECT (tenant_id, id, retention_days, expires_days, last_active_at) ON rag.collections TO rag_system
    """,
]
_DOCUMENTS = [
    """
    ALTER TABLE rag.documents
        ADD COLUMN access text NOT NULL DEFAULT 'tenant' CHECK (access IN ('tenant', 'private', 'collections')),
        ADD COLUMN readers text[] NOT NULL DEFAULT '{}',
        ADD COLUMN bytes bigint NOT NULL DEFAULT 0,
        ADD COLUMN deleted_at timestamptz,
        ADD COLUMN erasure_id uuid
    """,
    # The one place that says who reads a document. No owner: nobody.
    """
    CREATE FUNCTION rag.document_readers(of_tenant uuid, of_id uuid, of_kind text, of_owner uuid, mode text) RETURNS text[]
    LANGUAGE sql STABLE AS $$
        SELECT CASE
            WHEN of_kind = 'article' THEN ARRAY['*']
            WHEN of_owner IS NULL THEN CAST('{}' AS text[])
            WHEN mode = 'tenant' THEN ARRAY['manager', 'user:' || CAST(of_owner AS text), '*']
            WHEN mode = 'private' THEN ARRAY['manager', 'user:' || CAST(of_owner AS text)]
            ELSE ARRAY(
                SELECT unnest(ARRAY['manager', 'user:' || CAST(of_owner AS text)])
                UNION
                SELECT unnest(c.readers) FROM rag.collection_documents m
                  JOIN rag.collections c ON c.tenant_id = m.tenant_id AND c.id = m.collection_id
                 WHERE m.tenant_id = of_tenant AND m.document_id = of_id
                ORDER BY 1)
        END
    $$
    """,
    """
    UPDATE rag.documents d
       SET readers = rag.document_readers(d.tenant_id, d.id, d.kind, d.owner_id, d.access),
           bytes = COALESCE((SELECT sum(v.size) FROM rag.document_versions v
                              WHERE v.tenant_id = d.tenant_id AND v.document_id = d.id), 0)
    """,
    """
    CREATE FUNCTION rag.documents_begin() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        NEW.readers := rag.document_readers(NEW.tenant_id, NEW.id, NEW.kind, NEW.owner_id, NEW.access);
        RETURN NEW;
    END $$
    """,
    "CREATE TRIGGER documents_begin BEFORE INSERT ON rag.documents FOR EACH ROW EXECUTE FUNCTION rag.documents_begin()",
    "DROP INDEX rag.documents_name",
    """
    CREATE UNIQUE INDEX documents_name ON rag.documents (tenant_id, owner_id, name) WHERE kind = 'document' AND deleted_at IS NULL
    """,
    "CREATE INDEX documents_deleted ON rag.documents (deleted_at) WHERE deleted_at IS NOT NULL",
    "CREATE INDEX documents_article_age ON rag.documents (created_at) WHERE kind = 'article'",
    "CREATE POLICY system_all ON rag.documents TO rag_system USING (true)",
    """
    GRANT SELECT (tenant_id, id, kind, created_at, latest_version, indexed_version, deleted_at, erasure_id) ON rag.documents TO rag_system
    """,
]
# What is stored, counted where it changes: no way of adding or removing documents can forget it. The nil id stands for the tenant.
_USAGE = [
    """
    CREATE TABLE rag.usage (
        tenant_id uuid NOT NULL,
        owner_id uuid NOT NULL,
        documents bigint NOT NULL,
        bytes bigint NOT NULL,
        PRIMARY KEY (tenant_id, owner_id)
    )
    """,
    """
    INSERT INTO rag.usage (tenant_id, owner_id, documents, bytes)
    SELECT tenant_id, owner_id, count(*), sum(bytes) FROM rag.documents WHERE kind = 'document' GROUP BY tenant_id, owner_id
    UNION ALL
    SELECT tenant_id, '00000000-0000-0000-0000-000000000000', count(*), sum(bytes) FROM rag.documents
     WHERE kind = 'document' GROUP BY tenant_id
    """,
    """
    CREATE FUNCTION rag.count_documents() RETURNS trigger LANGUAGE plpgsql AS $$
    DECLARE
        row_of rag.documents;
        more bigint := 0;
        more_bytes bigint := 0;
    BEGIN
        IF TG_OP <> 'INSERT' THEN
            row_of := OLD;
            IF OLD.deleted_at IS NULL THEN more := more - 1; more_bytes := more_bytes - OLD.bytes; END IF;
        END IF;
        IF TG_OP <> 'DELETE' THEN
            row_of := NEW;
            IF NEW.deleted_at IS NULL THEN more := more + 1; more_bytes := more_bytes + NEW.bytes; END IF;
        END IF;
        IF row_of.kind = 'document' AND (more <> 0 OR more_bytes <> 0) THEN
            -- The tenant's row first, always: two transactions cannot wait for each other.
            INSERT INTO rag.usage AS u (tenant_id, owner_id, documents, bytes)
            VALUES (row_of.tenant_id, '00000000-0000-0000-0000-000000000000', more, more_bytes)
            ON CONFLICT (tenant_id, owner_id) DO UPDATE
                SET documents = u.documents + excluded.documents, bytes = u.bytes + excluded.bytes;
            INSERT INTO rag.usage AS u (tenant_id, owner_id, documents, bytes)
            VALUES (row_of.tenant_id, row_of.owner_id, more, more_bytes)
            ON CONFLICT (tenant_id, owner_id) DO UPDATE
                SET documents = u.documents + excluded.documents, bytes = u.bytes + excluded.bytes;
        END IF;
        RETURN NULL;
    END $$
    """,
    """
    CREATE TRIGGER documents_counted AFTER INSERT OR DELETE OR UPDATE OF bytes, deleted_at ON rag.documents
        FOR EACH ROW EXECUTE FUNCTION rag.count_documents()
    """,
    """
    CREATE FUNCTION rag.count_versions() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF TG_OP = 'INSERT' THEN
            UPDATE rag.documents SET bytes = bytes + NEW.size WHERE tenant_id = NEW.tenant_id AND id = NEW.document_id;
        ELSE
            UPDATE rag.documents SET bytes = bytes - OLD.size WHERE tenant_id = OLD.tenant_id AND id = OLD.document_id;
        END IF;
        RETURN NULL;
    END $$
    """,
    """
    CREATE TRIGGER versions_counted_in AFTER INSERT ON rag.document_versions
        FOR EACH ROW WHEN (NEW.kind = 'document') EXECUTE FUNCTION rag.count_versions()
    """,
    """
    CREATE TRIGGER versions_counted_out AFTER DELETE ON rag.document_versions
        FOR EACH ROW WHEN (OLD.kind = 'document') EXECUTE FUNCTION rag.count_versions()
    """,
]
# What was erased is told by counts and hashes alone.
_ERASURES = [
    """
    CREATE TABLE rag.erasures (
        tenant_id uuid NOT NULL,
        id uuid NOT NULL,
        user_id uuid,
        requested_at timestamptz NOT NULL DEFAULT now(),
        documents bigint NOT NULL DEFAULT 0,
        versions bigint NOT NULL DEFAULT 0,
        chunks bigint NOT NULL DEFAULT 0,
        blobs bigint NOT NULL DEFAULT 0,
        bytes bigint NOT NULL DEFAULT 0,
        collections bigint NOT NULL DEFAULT 0,
        grants bigint NOT NULL DEFAULT 0,
        articles bigint NOT NULL DEFAULT 0,
        completed_at timestamptz,
        receipt text,
        signature text,
        public_key text,
        PRIMARY KEY (tenant_id, id)
    )
    """,
    # Until the receipt is written: the hash of each version of each document, by which the receipt names what is gone.
    """
    CREATE TABLE rag.erasure_items (
        tenant_id uuid NOT NULL,
        erasure_id uuid NOT NULL,
        hash text NOT NULL,
        PRIMARY KEY (tenant_id, erasure_id, hash),
        FOREIGN KEY (tenant_id, erasure_id) REFERENCES rag.erasures (tenant_id, id) ON DELETE CASCADE
    )
    """,
    "CREATE INDEX erasures_open ON rag.erasures (requested_at) WHERE completed_at IS NULL",
]
UPGRADE: list[str] = statements_of(
    _COLLECTIONS,
    _DOCUMENTS,
    _USAGE,
    tenant_table("rag", "usage"),
    _ERASURES,
    tenant_table("rag", "erasures"),
    tenant_table("rag", "erasure_items"),
    [
        "CREATE POLICY system_all ON rag.erasures TO rag_system USING (true)",
        "GRANT SELECT (tenant_id, id, requested_at, completed_at) ON rag.erasures TO rag_system",
    ],
    _policy("documents", f"{_WORKER} OR (deleted_at IS NULL AND readers && {_READERS})"),
    _policy("document_versions", _of_document("document_versions")),
    _policy("chunks", _of_document("chunks")),
    # A posting says nothing without its chunk, which has a policy of its own; a lookup per posting would cost more than the search.
    _policy("postings", _STATED),
)
DOWNGRADE: list[str] = [
    # The older code shows every document to all of its tenant.
    """
    DO $$ BEGIN
        IF EXISTS (SELECT FROM rag.documents WHERE access <> 'tenant' AND deleted_at IS NULL) THEN
            RAISE EXCEPTION 'There are documents that not everybody in their tenant may read, and the older version would show them to all.'
                USING HINT = 'Delete them or open them to their tenants first.';
        END IF;
    END $$
    """,
    *(
        statement
        for table in _TABLES
        for statement in (
            f"DROP POLICY app_readers ON rag.{table}",
            f"CREATE POLICY app_tenant ON rag.{table} TO rag_app USING ({_TENANT}) WITH CHECK ({_TENANT})",
        )
    ),
    "DROP TABLE rag.erasure_items",
    "DROP TABLE rag.erasures",
    "DROP TRIGGER versions_counted_in ON rag.document_versions",
    "DROP TRIGGER versions_counted_out ON rag.document_versions",
    "DROP TRIGGER documents_counted ON rag.documents",
    "DROP TRIGGER documents_begin ON rag.documents",
    "DROP FUNCTION rag.count_versions()",
    "DROP FUNCTION rag.count_documents()",
    "DROP FUNCTION rag.documents_begin()",
    "DROP TABLE rag.usage",
    # Deletion has begun for these: they must not come back.
    "DELETE FROM rag.documents WHERE deleted_at IS NOT NULL",
    "DROP INDEX rag.documents_article_age",
    "DROP INDEX rag.documents_deleted",
    "DROP INDEX rag.documents_name",
    "CREATE UNIQUE INDEX documents_name ON rag.documents (tenant_id, owner_id, name) WHERE kind = 'document'",
    "DROP POLICY system_all ON rag.documents",
    """
    REVOKE SELECT (tenant_id, id, kind, created_at, latest_version, indexed_version, deleted_at, erasure_id)
        ON rag.documents FROM rag_system
    """,
    "DROP FUNCTION rag.document_readers(uuid, uuid, text, uuid, text)",
    """
    ALTER TABLE rag.documents DROP COLUMN access, DROP COLUMN readers, DROP COLUMN bytes, DROP COLUMN deleted_at, DROP COLUMN erasure_id
    """,
    "DROP POLICY system_all ON rag.collections",
    "REVOKE SELECT (tenant_id, id, retention_days, expires_days, last_active_at) ON rag.collections FROM rag_system",
    "ALTER TABLE rag.collections DROP COLUMN readers",
    """
    ALTER TABLE rag.collections DROP COLUMN reader_grants, DROP COLUMN editor_grants, DROP COLUMN acl_version, DROP COLUMN max_documents,
        DROP COLUMN max_bytes, DROP COLUMN retention_days, DROP COLUMN expires_days, DROP COLUMN last_active_at
    """,
]


def upgrade() -> None:
    for statement in UPGRADE:
        op.execute(statement)


def downgrade() -> None:
    for statement in DOWNGRADE:
        op.execute(statement)
