"""Event log, its projection, messaging tables."""

from alembic import op

from wireroom_common.db.schema import messaging_tables, statements_of, system_table, tenant_table

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

# Read access for tenants, append access for the service: nobody but the owner changes what is logged.
_READ_ONLY_FOR_APP = "REVOKE INSERT, UPDATE, DELETE ON monitoring.{table} FROM monitoring_app"

_LOG = [
    # `event_ids` makes an event's id unique over all partitions (a unique index of a partitioned table must contain its key).
    "CREATE TABLE monitoring.event_ids (event_id uuid PRIMARY KEY)",
    *system_table("monitoring", "event_ids", system="SELECT, INSERT"),
    """
    CREATE TABLE monitoring.event_log (
        log_offset bigint NOT NULL,
        appended_at timestamptz NOT NULL DEFAULT now(),
        event_id uuid NOT NULL,
        tenant_id uuid,
        type text NOT NULL,
        source text NOT NULL,
        subject text NOT NULL,
        actor text NOT NULL,
        traceparent text NOT NULL,
        causation_id text NOT NULL,
        occurred_at timestamptz NOT NULL,
        data bytea NOT NULL,
        PRIMARY KEY (log_offset, appended_at)
    ) PARTITION BY RANGE (appended_at)
    """,
    "CREATE INDEX event_log_tenant ON monitoring.event_log (tenant_id, log_offset)",
    *tenant_table("monitoring", "event_log", system="SELECT, INSERT"),
    _READ_ONLY_FOR_APP.format(table="event_log"),
    # No event is ever refused for want of a partition.
    "CREATE TABLE monitoring.event_log_default PARTITION OF monitoring.event_log DEFAULT",
    "ALTER TABLE monitoring.event_log_default ENABLE ROW LEVEL SECURITY",
    "ALTER TABLE monitoring.event_log_default FORCE ROW LEVEL SECURITY",
    "CREATE POLICY owner_all ON monitoring.event_log_default TO monitoring_owner USING (true) WITH CHECK (true)",
    """
    CREATE FUNCTION monitoring.ensure_event_partitions(months_ahead integer) RETURNS integer
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '5s' AS $$
    DECLARE
        month_start timestamp;
        lower_bound timestamptz;
        upper_bound timestamptz;
        partition text;
        made integer := 0;
    BEGIN
        IF months_ahead IS NULL OR months_ahead NOT BETWEEN 0 AND 12 THEN
            RAISE EXCEPTION 'months_ahead must be between 0 and 12';
        END IF;
        PERFORM pg_advisory_xact_lock(hashtextextended('monitoring.event_log partitions', 0));
        FOR ahead IN 0..months_ahead LOOP
            month_start := date_trunc('month', now() AT TIME ZONE 'UTC') + make_interval(months => ahead);
            lower_bound := month_start AT TIME ZONE 'UTC';
            upper_bound := (month_start + interval '1 month') AT TIME ZONE 'UTC';
            partition := 'event_log_' || to_char(month_start, 'YYYY_MM');
            CONTINUE WHEN to_regclass('monitoring.' || partition) IS NOT NULL;
            -- Rows of this month that landed in the default partition move along; none may arrive there meanwhile.
            LOCK TABLE ONLY monitoring.event_log IN SHARE UPDATE EXCLUSIVE MODE;
            LOCK TABLE monitoring.event_log_default IN ACCESS EXCLUSIVE MODE;
            EXECUTE format('CREATE TABLE monitoring.%I (LIKE monitoring.event_log INCLUDING DEFAULTS)', partition);
            EXECUTE format('ALTER TABLE monitoring.%I ENABLE ROW LEVEL SECURITY', partition);
            EXECUTE format('ALTER TABLE monitoring.%I FORCE ROW LEVEL SECURITY', partition);
            EXECUTE format('CREATE POLICY owner_all ON monitoring.%I TO monitoring_owner USING (true) WITH CHECK (true)', partition);
            EXECUTE format(
                'WITH moved AS (DELETE FROM monitoring.event_log_default WHERE appended_at >= %L AND appended_at < %L RETURNING *)'
                ' INSERT INTO monitoring.%I SELECT * FROM moved', lower_bound, upper_bound, partition);
            EXECUTE format('ALTER TABLE monitoring.event_log ATTACH PARTITION monitoring.%I FOR VALUES FROM (%L) TO (%L)',
                partition, lower_bound, upper_bound);
            made := made + 1;
        END LOOP;
        RETURN made;
    END $$
    """,
    "REVOKE ALL ON FUNCTION monitoring.ensure_event_partitions(integer) FROM PUBLIC",
    "GRANT EXECUTE ON FUNCTION monitoring.ensure_event_partitions(integer) TO monitoring_system",
    "SELECT monitoring.ensure_event_partitions(2)",
]

_PROJECTION = [
    # Exactly one row: the newest offset, the generation of `stats` that is read, and the one a rebuild is filling.
    """
    CREATE TABLE monitoring.log_head (
        singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
        last_offset bigint NOT NULL DEFAULT 0,
        generation integer NOT NULL DEFAULT 1,
        building integer
    ) WITH (fillfactor = 20, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_scale_factor = 0)
    """,
    *system_table("monitoring", "log_head", system="SELECT, UPDATE"),
    "CREATE POLICY app_select ON monitoring.log_head FOR SELECT TO monitoring_app USING (true)",
    "GRANT SELECT (generation) ON monitoring.log_head TO monitoring_app",
    "INSERT INTO monitoring.log_head DEFAULT VALUES",
    """
    CREATE TABLE monitoring.stats (
        tenant_id uuid NOT NULL,
        generation integer NOT NULL,
        counter text NOT NULL,
        value bigint NOT NULL,
        last_offset bigint NOT NULL,
        PRIMARY KEY (tenant_id, generation, counter)
    ) WITH (fillfactor = 50)
    """,
    *tenant_table("monitoring", "stats", system="SELECT, INSERT, UPDATE, DELETE"),
    _READ_ONLY_FOR_APP.format(table="stats"),
]


def upgrade() -> None:
    for statement in statements_of(_LOG, _PROJECTION, messaging_tables("monitoring")):
        op.execute(statement)


def downgrade() -> None:
    for table in ("deliveries", "inbox", "outbox", "stats", "log_head", "event_log", "event_ids"):
        op.execute(f"DROP TABLE monitoring.{table}")
    op.execute("DROP FUNCTION monitoring.ensure_event_partitions(integer)")
    op.execute("DROP FUNCTION monitoring.outbox_notify()")
