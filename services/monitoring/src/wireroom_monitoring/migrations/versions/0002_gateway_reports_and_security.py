"""Request counts of the gateways, the security projection."""

from alembic import op

from wireroom_common.db.schema import statements_of, system_table, tenant_table

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_READ_ONLY_FOR_APP = "REVOKE INSERT, UPDATE, DELETE ON monitoring.{table} FROM monitoring_app"

UPGRADE = statements_of(
    [
        # Requests of no tenant have the nil UUID. What is older than the retention is summed up in the hour 1970-01-01 00:00.
        """
        CREATE TABLE monitoring.route_hours (
            tenant_id uuid NOT NULL,
            hour timestamptz NOT NULL,
            route text NOT NULL,
            method text NOT NULL,
            status_class smallint NOT NULL,
            requests bigint NOT NULL,
            milliseconds_sum double precision NOT NULL,
            PRIMARY KEY (tenant_id, hour, route, method, status_class)
        ) WITH (fillfactor = 70)
        """,
        "CREATE INDEX route_hours_hour ON monitoring.route_hours (hour)",
    ],
    tenant_table("monitoring", "route_hours", system="SELECT, INSERT, UPDATE, DELETE"),
    [_READ_ONLY_FOR_APP.format(table="route_hours")],
    [
        """
        CREATE TABLE monitoring.security_hours (
            tenant_id uuid NOT NULL,
            generation integer NOT NULL,
            hour timestamptz NOT NULL,
            name text NOT NULL,
            count bigint NOT NULL,
            PRIMARY KEY (tenant_id, generation, hour, name)
        ) WITH (fillfactor = 70)
        """,
        "CREATE INDEX security_hours_hour ON monitoring.security_hours (hour)",
    ],
    tenant_table("monitoring", "security_hours", system="SELECT, INSERT, UPDATE, DELETE"),
    [_READ_ONLY_FOR_APP.format(table="security_hours")],
    [
        # Which accounts and addresses failed to log in, hashed: only how many there are is read.
        """
        CREATE TABLE monitoring.security_subjects (
            tenant_id uuid NOT NULL,
            generation integer NOT NULL,
            hour timestamptz NOT NULL,
            kind text NOT NULL,
            digest bytea NOT NULL,
            PRIMARY KEY (tenant_id, generation, hour, kind, digest)
        )
        """,
        "CREATE INDEX security_subjects_hour ON monitoring.security_subjects (hour)",
    ],
    tenant_table("monitoring", "security_subjects", system="SELECT, INSERT, DELETE"),
    [_READ_ONLY_FOR_APP.format(table="security_subjects")],
    [
        # Whether a score is low was told; the nil UUID stands for the installation as a whole.
        """
        CREATE TABLE monitoring.security_alarms (
            scope uuid PRIMARY KEY,
            low boolean NOT NULL DEFAULT false,
            score integer NOT NULL DEFAULT 100,
            changed_at timestamptz NOT NULL
        )
        """,
    ],
    system_table("monitoring", "security_alarms"),
)


def upgrade() -> None:
    for statement in UPGRADE:
        op.execute(statement)


def downgrade() -> None:
    for table in ("security_alarms", "security_subjects", "security_hours", "route_hours"):
        op.execute(f"DROP TABLE monitoring.{table}")
