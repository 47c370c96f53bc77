"""Index generations: several models' vectors beside each other, each tenant's reads and writes going to its own; titles as a field of BM25."""

from __future__ import annotations

from alembic import op

from wireroom_common.db.schema import statements_of, tenant_table

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

# The dimensions of models in common use have a graph each; vectors of others are searched by scanning.
_DIMENSIONS = (384, 512, 768, 1024, 1536)

_GENERATIONS = [
    """
    CREATE TABLE rag.generations (
        tenant_id uuid NOT NULL,
        number integer NOT NULL CHECK (number > 0),
        model text NOT NULL,
        dimension integer NOT NULL CHECK (dimension BETWEEN 1 AND 4000),
        chunker text NOT NULL,
        state text NOT NULL CHECK (state IN ('building', 'serving', 'retired', 'aborted', 'dropped')),
        -- Documents up to this one were built.
        position uuid,
        error text NOT NULL DEFAULT '',
        attempts integer NOT NULL DEFAULT 0,
        next_attempt_at timestamptz NOT NULL DEFAULT now(),
        lease_token uuid,
        leased_until timestamptz,
        started_at timestamptz NOT NULL DEFAULT now(),
        switched_at timestamptz,
        ended_at timestamptz,
        PRIMARY KEY (tenant_id, number)
    )
    """,
    "CREATE UNIQUE INDEX generations_serving ON rag.generations (tenant_id) WHERE state = 'serving'",
    "CREATE UNIQUE INDEX generations_building ON rag.generations (tenant_id) WHERE state = 'building'",
    "CREATE INDEX generations_due ON rag.generations (next_attempt_at) WHERE state IN ('building', 'retired', 'aborted')",
    """
    INSERT INTO rag.generations (tenant_id, number, model, dimension, chunker, state, switched_at)
    SELECT tenant_id, 1, 'minilm-l6-v2', 384, 'tokens-250', 'serving', now() FROM rag.index_statistics
    """,
]
_CHUNKS = [
    "ALTER TABLE rag.chunks ADD COLUMN generation integer NOT NULL DEFAULT 1, ADD COLUMN dimension integer NOT NULL DEFAULT 384",
    "ALTER TABLE rag.chunks ADD COLUMN title_terms integer NOT NULL DEFAULT 0",
    "ALTER TABLE rag.chunks ALTER COLUMN generation DROP DEFAULT, ALTER COLUMN dimension DROP DEFAULT",
    "DROP INDEX rag.chunks_embedding",
    "ALTER TABLE rag.chunks ALTER COLUMN embedding TYPE halfvec",
    "ALTER TABLE rag.chunks ADD CONSTRAINT chunks_dimension CHECK (vector_dims(embedding) = dimension)",
    *(
        f"CREATE INDEX chunks_embedding_{dimension} ON rag.chunks"
        f" USING hnsw ((CAST(embedding AS halfvec({dimension}))) halfvec_cosine_ops) WHERE dimension = {dimension}"
        for dimension in _DIMENSIONS
    ),
    "DROP INDEX rag.chunks_document",
    "CREATE INDEX chunks_document ON rag.chunks (tenant_id, document_id, version, generation)",
    "CREATE INDEX chunks_generation ON rag.chunks (tenant_id, generation)",
]
_POSTINGS = [
    "ALTER TABLE rag.postings ADD COLUMN generation integer NOT NULL DEFAULT 1, ADD COLUMN title_tf integer NOT NULL DEFAULT 0",
    "ALTER TABLE rag.postings ADD COLUMN title_terms integer NOT NULL DEFAULT 0",
    "ALTER TABLE rag.postings ALTER COLUMN generation DROP DEFAULT",
    "ALTER TABLE rag.postings DROP CONSTRAINT postings_tf_check",
    "ALTER TABLE rag.postings ADD CONSTRAINT postings_tf_check CHECK (tf >= 0 AND title_tf >= 0 AND tf + title_tf > 0)",
    "ALTER TABLE rag.postings DROP CONSTRAINT postings_pkey",
    """
    ALTER TABLE rag.postings ADD CONSTRAINT postings_pkey
        PRIMARY KEY (tenant_id, generation, stem, chunk_id) INCLUDE (tf, terms, title_tf, title_terms)
    """,
    "ALTER TABLE rag.index_statistics ADD COLUMN generation integer NOT NULL DEFAULT 1",
    "ALTER TABLE rag.index_statistics ADD COLUMN title_terms bigint NOT NULL DEFAULT 0 CHECK (title_terms >= 0)",
    "ALTER TABLE rag.index_statistics ALTER COLUMN generation DROP DEFAULT",
    "ALTER TABLE rag.index_statistics DROP CONSTRAINT index_statistics_pkey",
    "ALTER TABLE rag.index_statistics ADD CONSTRAINT index_statistics_pkey PRIMARY KEY (tenant_id, generation)",
]
UPGRADE: list[str] = statements_of(
    _GENERATIONS,
    tenant_table("rag", "generations", system="SELECT, UPDATE (lease_token, leased_until, next_attempt_at, attempts, error)"),
    _CHUNKS,
    _POSTINGS,
)
# The older code knows one model of 384 dimensions: what is indexed otherwise is gone and must be uploaded again.
DOWNGRADE: list[str] = [
    """
    DELETE FROM rag.chunks c WHERE c.dimension <> 384 OR NOT EXISTS (
        SELECT 1 FROM rag.generations g WHERE g.tenant_id = c.tenant_id AND g.number = c.generation AND g.state = 'serving')
    """,
    """
    DELETE FROM rag.index_statistics s WHERE NOT EXISTS (
        SELECT 1 FROM rag.generations g
         WHERE g.tenant_id = s.tenant_id AND g.number = s.generation AND g.state = 'serving' AND g.dimension = 384)
    """,
    "ALTER TABLE rag.index_statistics DROP CONSTRAINT index_statistics_pkey",
    "ALTER TABLE rag.index_statistics DROP COLUMN generation, DROP COLUMN title_terms",
    "ALTER TABLE rag.index_statistics ADD CONSTRAINT index_statistics_pkey PRIMARY KEY (tenant_id)",
    "DELETE FROM rag.postings WHERE tf = 0",
    "ALTER TABLE rag.postings DROP CONSTRAINT postings_pkey, DROP CONSTRAINT postings_tf_check",
    "ALTER TABLE rag.postings DROP COLUMN generation, DROP COLUMN title_tf, DROP COLUMN title_terms",
    "ALTER TABLE rag.postings ADD CONSTRAINT postings_tf_check CHECK (tf > 0)",
    "ALTER TABLE rag.postings ADD CONSTRAINT postings_pkey PRIMARY KEY (tenant_id, stem, chunk_id) INCLUDE (tf, terms)",
    "DROP INDEX rag.chunks_generation",
    "DROP INDEX rag.chunks_document",
    "CREATE INDEX chunks_document ON rag.chunks (tenant_id, document_id, version)",
    *(f"DROP INDEX rag.chunks_embedding_{dimension}" for dimension in _DIMENSIONS),
    "ALTER TABLE rag.chunks DROP CONSTRAINT chunks_dimension",
    "ALTER TABLE rag.chunks DROP COLUMN generation, DROP COLUMN dimension, DROP COLUMN title_terms",
    "ALTER TABLE rag.chunks ALTER COLUMN embedding TYPE halfvec(384)",
    "CREATE INDEX chunks_embedding ON rag.chunks USING hnsw (embedding halfvec_cosine_ops)",
    "DROP TABLE rag.generations",
]


def upgrade() -> None:
    for statement in UPGRADE:
        op.execute(statement)


def downgrade() -> None:
    for statement in DOWNGRADE:
        op.execute(statement)
