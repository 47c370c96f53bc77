"""Erasure: what the event log says of a user or a tenant is blanked, its offsets and types stay."""

from __future__ import annotations

from alembic import op

from wireroom_common.db.schema import statements_of, system_table

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_COLUMNS = "subject, actor, traceparent, data"
UPGRADE: list[str] = statements_of(
    [
        f"GRANT UPDATE ({_COLUMNS}) ON monitoring.event_log TO monitoring_system",
        # `user_id` NULL: the tenant. Events with an offset above `blanked`, up to `blank_until`, are still to be read through.
        """
        CREATE TABLE monitoring.erasures (
            tenant_id uuid NOT NULL,
            id uuid NOT NULL,
            user_id uuid,
            requested_at timestamptz NOT NULL DEFAULT now(),
            blanked bigint NOT NULL DEFAULT 0,
            blank_until bigint NOT NULL,
            events bigint NOT NULL DEFAULT 0,
            counts jsonb NOT NULL DEFAULT '{}',
            answered boolean NOT NULL,
            PRIMARY KEY (tenant_id, id)
        )
        """,
        "CREATE INDEX erasures_open ON monitoring.erasures (requested_at) WHERE blanked < blank_until OR NOT answered",
    ],
    system_table("monitoring", "erasures", system="SELECT, INSERT, UPDATE"),
)
DOWNGRADE: list[str] = [
    "DROP TABLE monitoring.erasures",
    f"REVOKE UPDATE ({_COLUMNS}) ON monitoring.event_log FROM monitoring_system",
]


def upgrade() -> None:
    for statement in UPGRADE:
        op.execute(statement)


def downgrade() -> None:
    for statement in DOWNGRADE:
        op.execute(statement)
