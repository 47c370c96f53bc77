"""Postings in blocks instead of a row each, and a policy of chunks that can be asked about some documents alone."""

from __future__ import annotations

from alembic import op

from wireroom_common.db.schema import TENANT_EXPRESSION, statements_of, tenant_table

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

_STATED = "(SELECT current_setting('wireroom.readers', true) <> '')"
_WORKER = "(SELECT 'worker' = ANY(string_to_array(current_setting('wireroom.readers', true), chr(31))))"
_TENANT = f"tenant_id = {TENANT_EXPRESSION}"
# Set by a search of few documents; it can only take away from what the readers see. Empty: all documents.
_NARROWED = "(SELECT COALESCE(current_setting('wireroom.documents', true), '') <> '')"
_DOCUMENTS = "CAST((SELECT string_to_array(NULLIF(current_setting('wireroom.documents', true), ''), ',')) AS uuid[])"

# Older code may run meanwhile: whoever changes chunks holds the row of their document first, so that this waits for him, and he for
# this. What he committed behind the conversion's back would be missing in the blocks, or stay in them.
_ALONE = [
    "LOCK TABLE rag.documents IN EXCLUSIVE MODE",
    "LOCK TABLE rag.chunks, rag.{postings} IN SHARE ROW EXCLUSIVE MODE",
]
_BLOCKS = [
    # The format stands in `adapters.postings_format`. The empty stem has every chunk, with the numbers of its terms as counts.
    """
    CREATE TABLE rag.posting_blocks (
        tenant_id uuid NOT NULL,
        generation integer NOT NULL,
        stem text COLLATE "C" NOT NULL,
        first_id bigint NOT NULL,
        last_id bigint NOT NULL CHECK (last_id >= first_id),
        count integer NOT NULL CHECK (count > 0),
        format smallint NOT NULL CHECK (format IN (1, 2)),
        payload bytea NOT NULL CHECK (octet_length(payload) = count * CASE format WHEN 1 THEN 4 ELSE 8 END),
        PRIMARY KEY (tenant_id, generation, stem, first_id)
    ) WITH (autovacuum_vacuum_scale_factor = 0.05)
    """,
    # Neither compressed nor moved out of the row: it is read whole, and short.
    "ALTER TABLE rag.posting_blocks ALTER COLUMN payload SET STORAGE PLAIN",
    # Under which stems a document has postings: they are taken out with it, and it cannot go without them.
    """
    CREATE TABLE rag.indexed_stems (
        tenant_id uuid NOT NULL,
        document_id uuid NOT NULL,
        generation integer NOT NULL,
        stems text[] NOT NULL,
        PRIMARY KEY (tenant_id, document_id, generation),
        FOREIGN KEY (tenant_id, document_id) REFERENCES rag.documents (tenant_id, id)
    )
    """,
]
# Format 2: 32 bits of distance, 16 and 16 of counts, little-endian.
_CONVERT = [
    """
    INSERT INTO rag.posting_blocks (tenant_id, generation, stem, first_id, last_id, count, format, payload)
    SELECT tenant_id, generation, stem, min(chunk_id), max(chunk_id), count(*), 2,
           string_agg(substr(o, 8, 1) || substr(o, 7, 1) || substr(o, 6, 1) || substr(o, 5, 1)
                      || substr(t, 4, 1) || substr(t, 3, 1) || substr(h, 4, 1) || substr(h, 3, 1), '' ORDER BY chunk_id)
      FROM (SELECT placed.*, int8send(chunk_id - first_value(chunk_id) OVER (
                       PARTITION BY tenant_id, generation, stem, block ORDER BY chunk_id)) AS o,
                   int4send(LEAST(tf, 65535)) AS t, int4send(LEAST(title_tf, 65535)) AS h
              FROM (SELECT listed.*, (row_number() OVER (PARTITION BY tenant_id, generation, stem ORDER BY chunk_id) - 1) / 240 AS block
                      FROM (SELECT tenant_id, generation, stem, chunk_id, tf, title_tf FROM rag.postings
                            UNION ALL
                            SELECT tenant_id, generation, '', id, terms, title_terms FROM rag.chunks) listed) placed) parts
     GROUP BY tenant_id, generation, stem, block
    """,
    """
    INSERT INTO rag.indexed_stems (tenant_id, document_id, generation, stems)
    SELECT c.tenant_id, c.document_id, c.generation, COALESCE(array_agg(DISTINCT p.stem) FILTER (WHERE p.stem IS NOT NULL), '{}')
      FROM rag.chunks c LEFT JOIN rag.postings p ON p.tenant_id = c.tenant_id AND p.chunk_id = c.id
     GROUP BY c.tenant_id, c.document_id, c.generation
    """,
    "DROP TABLE rag.postings",
    "GRANT USAGE ON SEQUENCE rag.chunks_id_seq TO rag_app",
]


def _policy(table: str, using: str) -> list[str]:
    return [f"CREATE POLICY app_readers ON rag.{table} TO rag_app USING ({_TENANT} AND ({using})) WITH CHECK ({_TENANT})"]


def _of_document(table: str) -> str:
    # The documents' own policy decides. Of few documents, a table of those; else the planner chooses between one of all and a look-up
    # for each row.
    readable = f"d.{_TENANT} AND d.kind = 'document' AND d.deleted_at IS NULL"
    return (
        f"{_WORKER} OR (kind = 'article' AND {_STATED})"  # noqa: S608 - constants
        f" OR document_id IN (SELECT d.id FROM rag.documents d WHERE {readable} AND d.id = ANY({_DOCUMENTS}))"
        f" OR (NOT {_NARROWED} AND EXISTS (SELECT 1 FROM rag.documents d WHERE {readable} AND d.id = rag.{table}.document_id))"
    )


def _of_document_before(table: str) -> str:
    return (
        f"{_WORKER} OR (kind = 'article' AND {_STATED}) OR EXISTS (SELECT 1 FROM rag.documents d"  # noqa: S608 - constants
        f" WHERE d.{_TENANT} AND d.id = rag.{table}.document_id AND d.kind = 'document' AND d.deleted_at IS NULL)"
    )


_TEXTS = ("document_versions", "chunks")
UPGRADE: list[str] = statements_of(
    [statement.format(postings="postings") for statement in _ALONE],
    _BLOCKS,
    _CONVERT,
    tenant_table("rag", "posting_blocks"),
    tenant_table("rag", "indexed_stems"),
    # A posting says nothing without its chunk, which has a policy of its own.
    ["DROP POLICY app_tenant ON rag.posting_blocks", "DROP POLICY app_tenant ON rag.indexed_stems"],
    _policy("posting_blocks", _STATED),
    _policy("indexed_stems", _WORKER),
    *(
        statement
        for table in _TEXTS
        for statement in ([f"DROP POLICY app_readers ON rag.{table}"], _policy(table, _of_document(table)))
    ),
)
DOWNGRADE: list[str] = statements_of(
    [statement.format(postings="posting_blocks") for statement in _ALONE],
    *(
        statement
        for table in _TEXTS
        for statement in ([f"DROP POLICY app_readers ON rag.{table}"], _policy(table, _of_document_before(table)))
    ),
    [
        "REVOKE USAGE ON SEQUENCE rag.chunks_id_seq FROM rag_app",
        """
        CREATE TABLE rag.postings (
            tenant_id uuid NOT NULL,
            generation integer NOT NULL,
            stem text NOT NULL,
            chunk_id bigint NOT NULL,
            tf integer NOT NULL CONSTRAINT postings_tf_check CHECK (tf >= 0 AND title_tf >= 0 AND tf + title_tf > 0),
            terms integer NOT NULL,
            title_tf integer NOT NULL DEFAULT 0,
            title_terms integer NOT NULL DEFAULT 0,
            PRIMARY KEY (tenant_id, generation, stem, chunk_id) INCLUDE (tf, terms, title_tf, title_terms),
            FOREIGN KEY (tenant_id, chunk_id) REFERENCES rag.chunks (tenant_id, id) ON DELETE CASCADE
        )
        """,
        """
        INSERT INTO rag.postings (tenant_id, generation, stem, chunk_id, tf, terms, title_tf, title_terms)
        SELECT c.tenant_id, c.generation, r.stem, c.id, r.tf, c.terms, r.title_tf, c.title_terms
          FROM (SELECT b.tenant_id, b.generation, b.stem,
                       b.first_id + get_byte(payload, 4 * n) + 256 * get_byte(payload, 4 * n + 1) AS chunk_id,
                       get_byte(payload, 4 * n + 2) AS tf, get_byte(payload, 4 * n + 3) AS title_tf
                  FROM rag.posting_blocks b CROSS JOIN generate_series(0, b.count - 1) AS n WHERE b.format = 1
                UNION ALL
                SELECT b.tenant_id, b.generation, b.stem,
                       b.first_id + get_byte(payload, 8 * n) + 256 * get_byte(payload, 8 * n + 1)
                       + 65536 * get_byte(payload, 8 * n + 2) + CAST(16777216 AS bigint) * get_byte(payload, 8 * n + 3),
                       get_byte(payload, 8 * n + 4) + 256 * get_byte(payload, 8 * n + 5),
                       get_byte(payload, 8 * n + 6) + 256 * get_byte(payload, 8 * n + 7)
                  FROM rag.posting_blocks b CROSS JOIN generate_series(0, b.count - 1) AS n WHERE b.format = 2) r
          JOIN rag.chunks c ON c.tenant_id = r.tenant_id AND c.id = r.chunk_id AND c.generation = r.generation
         WHERE r.stem <> ''
        """,
        "CREATE INDEX postings_chunk ON rag.postings (tenant_id, chunk_id)",
        *tenant_table("rag", "postings"),
        "DROP POLICY app_tenant ON rag.postings",
        *_policy("postings", _STATED),
        "DROP TABLE rag.indexed_stems",
        "DROP TABLE rag.posting_blocks",
    ],
)


def upgrade() -> None:
    for statement in UPGRADE:
        op.execute(statement)


def downgrade() -> None:
    for statement in DOWNGRADE:
        op.execute(statement)
