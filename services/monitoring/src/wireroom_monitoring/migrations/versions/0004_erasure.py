"""Erasure: what the event log says of a user or a tenant is blanked, its offsets and types stay."""

from __future__ import annotations

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_COLUMNS = "subject, actor, traceparent, data"
UPGRADE: list[str] = [f"GRANT UPDATE ({_COLUMNS}) ON monitoring.event_log TO monitoring_system"]
DOWNGRADE: list[str] = [f"REVOKE UPDATE ({_COLUMNS}) ON monitoring.event_log FROM monitoring_system"]


def upgrade() -> None:
    for statement in UPGRADE:
        op.execute(statement)


def downgrade() -> None:
    for statement in DOWNGRADE:
        op.execute(statement)
