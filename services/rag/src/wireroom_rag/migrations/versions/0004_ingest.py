"""The state `scanned`, since when a state lasts, who holds leases."""

from __future__ import annotations

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_STATES = "'received', {}'extracted', 'chunked', 'embedded', 'indexed', 'rejected', 'failed'"
_PENDING = "'received', {}'extracted', 'chunked', 'embedded'"


def _states(more: str) -> list[str]:
    return [
        "ALTER TABLE rag.document_versions DROP CONSTRAINT document_versions_state_check",
        f"ALTER TABLE rag.document_versions ADD CONSTRAINT document_versions_state_check CHECK (state IN ({_STATES.format(more)}))",
        "DROP INDEX rag.document_versions_due",
        f"""
        CREATE INDEX document_versions_due ON rag.document_versions (kind, next_attempt_at) WHERE state IN ({_PENDING.format(more)})
        """,
    ]


UPGRADE: list[str] = [
    *_states("'scanned', "),
    "ALTER TABLE rag.document_versions ADD COLUMN state_at timestamptz NOT NULL DEFAULT now()",
    """
    CREATE FUNCTION rag.note_state_change() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN NEW.state_at := now(); RETURN NEW; END $$
    """,
    """
    CREATE TRIGGER document_versions_state_at BEFORE UPDATE OF state ON rag.document_versions
        FOR EACH ROW WHEN (OLD.state IS DISTINCT FROM NEW.state) EXECUTE FUNCTION rag.note_state_change()
    """,
    "CREATE INDEX document_versions_leased ON rag.document_versions (kind, tenant_id) WHERE lease_token IS NOT NULL",
    # What a watcher of a job's progress and the reaper look at, over all tenants; never a text.
    "GRANT SELECT (pages, chunks, reason_code, reason, updated_at, state_at) ON rag.document_versions TO rag_system",
]
DOWNGRADE: list[str] = [
    "REVOKE SELECT (pages, chunks, reason_code, reason, updated_at, state_at) ON rag.document_versions FROM rag_system",
    "DROP INDEX rag.document_versions_leased",
    "DROP TRIGGER document_versions_state_at ON rag.document_versions",
    "DROP FUNCTION rag.note_state_change()",
    "ALTER TABLE rag.document_versions DROP COLUMN state_at",
    "UPDATE rag.document_versions SET state = 'received' WHERE state = 'scanned'",
    *_states(""),
]


def upgrade() -> None:
    for statement in UPGRADE:
        op.execute(statement)


def downgrade() -> None:
    for statement in DOWNGRADE:
        op.execute(statement)
