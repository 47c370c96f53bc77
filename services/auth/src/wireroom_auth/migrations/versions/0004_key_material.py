"""Rotation, limits and signing secrets of API keys; life of signing keys."""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

UPGRADE: list[str] = [
    """
    ALTER TABLE auth.api_keys
        ADD COLUMN limits jsonb NOT NULL DEFAULT '{}',
        ADD COLUMN budget_day_micros bigint NOT NULL DEFAULT 0 CHECK (budget_day_micros >= 0),
        ADD COLUMN budget_month_micros bigint NOT NULL DEFAULT 0 CHECK (budget_month_micros >= 0),
        ADD COLUMN signing_secret_sealed bytea,
        ADD COLUMN previous_hash bytea CONSTRAINT api_keys_previous_hash UNIQUE,
        ADD COLUMN previous_signing_secret_sealed bytea,
        ADD COLUMN previous_until timestamptz
    """,
    # Signatures name the key by its id alone: the tenant is only known afterwards.
    "CREATE UNIQUE INDEX api_keys_id ON auth.api_keys (id)",
    # One signs from `signs_from` on, the next one is published before; `retired_at` says when a replaced one stops being published.
    "ALTER TABLE auth.signing_keys ADD COLUMN signs_from timestamptz",
    "UPDATE auth.signing_keys SET signs_from = created_at",
    "GRANT UPDATE (signs_from, retired_at), DELETE ON auth.signing_keys TO auth_system",
]
DOWNGRADE: list[str] = [
    "REVOKE UPDATE (signs_from, retired_at), DELETE ON auth.signing_keys FROM auth_system",
    # Those published for later would sign at once for yesterday's code.
    "DELETE FROM auth.signing_keys WHERE signs_from IS NULL",
    "ALTER TABLE auth.signing_keys DROP COLUMN signs_from",
    "DROP INDEX auth.api_keys_id",
    """
    ALTER TABLE auth.api_keys
        DROP COLUMN limits,
        DROP COLUMN budget_day_micros,
        DROP COLUMN budget_month_micros,
        DROP COLUMN signing_secret_sealed,
        DROP COLUMN previous_hash,
        DROP COLUMN previous_signing_secret_sealed,
        DROP COLUMN previous_until
    """,
]


def upgrade() -> None:
    for statement in UPGRADE:
        op.execute(statement)


def downgrade() -> None:
    for statement in DOWNGRADE:
        op.execute(statement)
