"""Documents, their versions (which are the processing jobs), chunks, postings, statistics.

Revision ID: 0001
Revises:
"""

from __future__ import annotations

from alembic import op

from wireroom_common.db.schema import messaging_tables, statements_of, tenant_table

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_TABLES = [
    """
    CREATE TABLE rag.documents (
        tenant_id uuid NOT NULL,
        id uuid NOT NULL,
        kind text NOT NULL CHECK (kind IN ('document', 'article')),
        owner_id uuid,
        feed_id uuid,
        name text NOT NULL,
        latest_version integer NOT NULL CHECK (latest_version > 0),
        indexed_version integer,
        created_at timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (tenant_id, id),
        CHECK ((kind = 'document') = (owner_id IS NOT NULL)),
        CHECK ((kind = 'article') = (feed_id IS NOT NULL))
    )
    """,
    "CREATE UNIQUE INDEX documents_name ON rag.documents (tenant_id, owner_id, name) WHERE kind = 'document'",
    "CREATE INDEX documents_feed ON rag.documents (tenant_id, feed_id) WHERE kind = 'article'",
    # One row per version is the content's record and its processing job at once: there is no second place that could disagree.
    """
    CREATE TABLE rag.document_versions (
        tenant_id uuid NOT NULL,
        document_id uuid NOT NULL,
        version integer NOT NULL CHECK (version > 0),
        kind text NOT NULL,
        title text NOT NULL,
        url text NOT NULL DEFAULT '',
        media_type text NOT NULL,
        size bigint NOT NULL DEFAULT 0,
        sha256 text NOT NULL,
        blob_key text,
        published_at timestamptz,
        content text,
        page_starts integer[] NOT NULL DEFAULT '{}',
        pages integer NOT NULL DEFAULT 0,
        chunks integer NOT NULL DEFAULT 0,
        state text NOT NULL DEFAULT 'received'
            CHECK (state IN ('received', 'extracted', 'chunked', 'embedded', 'indexed', 'rejected', 'failed')),
        reason_code text NOT NULL DEFAULT '',
        reason text NOT NULL DEFAULT '',
        attempts integer NOT NULL DEFAULT 0,
        next_attempt_at timestamptz NOT NULL DEFAULT now(),
        lease_token uuid,
        leased_until timestamptz,
        created_at timestamptz NOT NULL DEFAULT now(),
        updated_at timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (tenant_id, document_id, version),
        FOREIGN KEY (tenant_id, document_id) REFERENCES rag.documents (tenant_id, id) ON DELETE CASCADE
    )
    """,
    """
    CREATE INDEX document_versions_due ON rag.document_versions (kind, next_attempt_at)
        WHERE state IN ('received', 'extracted', 'chunked', 'embedded')
    """,
    "CREATE INDEX document_versions_blob ON rag.document_versions (blob_key) WHERE blob_key IS NOT NULL",
    # Only chunks of the version that retrieval serves stand here.
    """
    CREATE TABLE rag.chunks (
        tenant_id uuid NOT NULL,
        id bigint GENERATED ALWAYS AS IDENTITY,
        document_id uuid NOT NULL,
        version integer NOT NULL,
        kind text NOT NULL,
        published_at timestamptz,
        page integer NOT NULL,
        start_at integer NOT NULL,
        end_at integer NOT NULL CHECK (end_at > start_at),
        content text NOT NULL,
        terms integer NOT NULL,
        embedding halfvec(384) NOT NULL,
        PRIMARY KEY (tenant_id, id),
        FOREIGN KEY (tenant_id, document_id, version)
            REFERENCES rag.document_versions (tenant_id, document_id, version) ON DELETE CASCADE
    )
    """,
    "CREATE INDEX chunks_document ON rag.chunks (tenant_id, document_id, version)",
    "CREATE INDEX chunks_embedding ON rag.chunks USING hnsw (embedding halfvec_cosine_ops)",
    # The chunk's length stands in each posting, so that BM25 reads this table's index and nothing else.
    """
    CREATE TABLE rag.postings (
        tenant_id uuid NOT NULL,
        stem text NOT NULL,
        chunk_id bigint NOT NULL,
        tf integer NOT NULL CHECK (tf > 0),
        terms integer NOT NULL,
        PRIMARY KEY (tenant_id, stem, chunk_id) INCLUDE (tf, terms),
        FOREIGN KEY (tenant_id, chunk_id) REFERENCES rag.chunks (tenant_id, id) ON DELETE CASCADE
    )
    """,
    "CREATE INDEX postings_chunk ON rag.postings (tenant_id, chunk_id)",
    """
    CREATE TABLE rag.index_statistics (
        tenant_id uuid PRIMARY KEY,
        chunks bigint NOT NULL CHECK (chunks >= 0),
        terms bigint NOT NULL CHECK (terms >= 0)
    )
    """,
]


def upgrade() -> None:
    statements = statements_of(
        _TABLES,
        tenant_table("rag", "documents"),
        # The system role leases jobs across tenants and looks which blobs are still referenced; it never sees a text.
        tenant_table("rag", "document_versions"),
        [
            "CREATE POLICY system_all ON rag.document_versions TO rag_system USING (true) WITH CHECK (true)",
            """
            GRANT SELECT (tenant_id, document_id, version, kind, title, url, media_type, size, sha256, blob_key, published_at, state,
                          attempts, next_attempt_at, lease_token, leased_until, created_at)
                ON rag.document_versions TO rag_system
            """,
            "GRANT UPDATE (attempts, next_attempt_at, lease_token, leased_until) ON rag.document_versions TO rag_system",
        ],
        tenant_table("rag", "chunks"),
        tenant_table("rag", "postings"),
        tenant_table("rag", "index_statistics"),
        messaging_tables("rag"),
    )
    for statement in statements:
        op.execute(statement)


def downgrade() -> None:
    for table in ("index_statistics", "postings", "chunks", "document_versions", "documents", "deliveries", "inbox", "outbox"):
        op.execute(f"DROP TABLE rag.{table}")
    op.execute("DROP FUNCTION rag.outbox_notify()")
