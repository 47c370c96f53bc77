"""Budgets, reservations and the usage ledger; generations by month.

`generations` is partitioned by its id, whose first 48 bits are the time it was made (UUIDv7): the key stays (tenant_id, id) and a look-up
by id touches one partition. `usage` is partitioned by the time its generation started.
"""

from alembic import op

from wireroom_common.db.schema import tenant_table

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_GENERATION_COLUMNS = """
    tenant_id uuid NOT NULL,
    id uuid NOT NULL,
    user_id uuid NOT NULL,
    completion_id text NOT NULL,
    model text NOT NULL,
    provider text NOT NULL DEFAULT '',
    status text NOT NULL CHECK (status IN ('running', 'completed', 'failed', 'cancelled')),
    answer_mode text NOT NULL DEFAULT '',
    error_code text NOT NULL DEFAULT '',
    tokens_in integer NOT NULL DEFAULT 0,
    tokens_out integer NOT NULL DEFAULT 0,
    citations integer NOT NULL DEFAULT 0,
    first_token_ms bigint,
    started_at timestamptz NOT NULL,
    finished_at timestamptz,
    {more}
    PRIMARY KEY (tenant_id, id),
    CHECK ((status = 'running') = (finished_at IS NULL))
"""
_MORE = """
    key_id uuid,
    origin_kind text NOT NULL DEFAULT 'openai',
    origin_id text NOT NULL DEFAULT '',
    micros bigint NOT NULL DEFAULT 0 CHECK (micros >= 0),
    path text[] NOT NULL DEFAULT '{}',
    cache text NOT NULL DEFAULT '',
"""
_OLD = (
    "tenant_id, id, user_id, completion_id, model, provider, status, answer_mode, error_code, tokens_in, tokens_out, citations,"
    " first_token_ms, started_at, finished_at"
)


def _default_partition(table: str) -> list[str]:
    """Nothing is ever refused for want of a partition. Nobody is granted a partition: all access goes through the table."""
    name = f"chat.{table}_default"
    return [
        f"CREATE TABLE {name} PARTITION OF chat.{table} DEFAULT",
        f"ALTER TABLE {name} ENABLE ROW LEVEL SECURITY",
        f"ALTER TABLE {name} FORCE ROW LEVEL SECURITY",
        f"CREATE POLICY owner_all ON {name} TO chat_owner USING (true) WITH CHECK (true)",
    ]


# The tables' owner runs these functions for the service, which has no right to make or drop tables.
_PARTITION_FUNCTIONS = [
    # The lowest value of the partition key from `moment` on, as text.
    """
    CREATE FUNCTION chat.partition_bound(log text, moment timestamptz) RETURNS text LANGUAGE sql STABLE SET timezone = 'UTC' AS $$
        SELECT CASE log WHEN 'generations'
            THEN CAST(lpad(to_hex(CAST(extract(epoch FROM moment) * 1000 AS bigint)), 12, '0') || repeat('0', 20) AS uuid)::text
            ELSE moment::text END
    $$
    """,
    """
    CREATE FUNCTION chat.ensure_partitions(at timestamptz, months_ahead integer) RETURNS integer
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp SET lock_timeout = '5s' SET timezone = 'UTC' AS $$
    DECLARE
        log text;
        key text;
        month_start timestamp;
        lower_bound text;
        upper_bound text;
        partition text;
        made integer := 0;
    BEGIN
        IF at IS NULL OR months_ahead IS NULL OR months_ahead NOT BETWEEN 0 AND 12 THEN
            RAISE EXCEPTION 'months_ahead must be between 0 and 12';
        END IF;
        PERFORM pg_advisory_xact_lock(hashtextextended('chat partitions', 0));
        FOREACH log IN ARRAY ARRAY['generations', 'usage'] LOOP
            key := CASE log WHEN 'generations' THEN 'id' ELSE 'at' END;
            FOR ahead IN 0..months_ahead LOOP
                month_start := date_trunc('month', at AT TIME ZONE 'UTC') + make_interval(months => ahead);
                lower_bound := chat.partition_bound(log, month_start AT TIME ZONE 'UTC');
                upper_bound := chat.partition_bound(log, (month_start + interval '1 month') AT TIME ZONE 'UTC');
                partition := log || '_' || to_char(month_start, 'YYYY_MM');
                CONTINUE WHEN to_regclass('chat.' || partition) IS NOT NULL;
                -- Rows of this month that landed in the default partition move along; none may arrive there meanwhile.
                EXECUTE format('LOCK TABLE ONLY chat.%I IN SHARE UPDATE EXCLUSIVE MODE', log);
                EXECUTE format('LOCK TABLE chat.%I IN ACCESS EXCLUSIVE MODE', log || '_default');
                EXECUTE format('CREATE TABLE chat.%I (LIKE chat.%I INCLUDING DEFAULTS INCLUDING CONSTRAINTS)', partition, log);
                EXECUTE format('ALTER TABLE chat.%I ENABLE ROW LEVEL SECURITY', partition);
                EXECUTE format('ALTER TABLE chat.%I FORCE ROW LEVEL SECURITY', partition);
                EXECUTE format('CREATE POLICY owner_all ON chat.%I TO chat_owner USING (true) WITH CHECK (true)', partition);
                EXECUTE format(
                    'WITH moved AS (DELETE FROM chat.%I WHERE %I >= %L AND %I < %L RETURNING *) INSERT INTO chat.%I SELECT * FROM moved',
                    log || '_default', key, lower_bound, key, upper_bound, partition);
                EXECUTE format('ALTER TABLE chat.%I ATTACH PARTITION chat.%I FOR VALUES FROM (%L) TO (%L)',
                    log, partition, lower_bound, upper_bound);
                made := made + 1;
            END LOOP;
        END LOOP;
        RETURN made;
    END $$
    """,
    # Drops partitions of months before the oldest month that is kept. What stands in the default partition stays.
    """
    CREATE FUNCTION chat.drop_partitions(log text, at timestamptz, months_kept integer) RETURNS integer
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp SET lock_timeout = '5s' SET timezone = 'UTC' AS $$
    DECLARE
        oldest text;
        partition text;
        dropped integer := 0;
    BEGIN
        IF at IS NULL OR months_kept IS NULL OR months_kept < 1 OR log NOT IN ('generations', 'usage') THEN
            RAISE EXCEPTION 'months_kept must be at least 1, and the log one of generations and usage';
        END IF;
        PERFORM pg_advisory_xact_lock(hashtextextended('chat partitions', 0));
        oldest := log || '_' || to_char(date_trunc('month', at AT TIME ZONE 'UTC') - make_interval(months => months_kept), 'YYYY_MM');
        FOR partition IN
            SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
            WHERE i.inhparent = to_regclass('chat.' || log) AND c.relname ~ ('^' || log || '_[0-9]{4}_[0-9]{2}$') AND c.relname < oldest
            ORDER BY c.relname
        LOOP
            EXECUTE format('DROP TABLE chat.%I', partition);
            dropped := dropped + 1;
        END LOOP;
        RETURN dropped;
    END $$
    """,
    "REVOKE ALL ON FUNCTION chat.partition_bound(text, timestamptz) FROM PUBLIC",
    "REVOKE ALL ON FUNCTION chat.ensure_partitions(timestamptz, integer) FROM PUBLIC",
    "REVOKE ALL ON FUNCTION chat.drop_partitions(text, timestamptz, integer) FROM PUBLIC",
    "GRANT EXECUTE ON FUNCTION chat.ensure_partitions(timestamptz, integer) TO chat_system",
    "GRANT EXECUTE ON FUNCTION chat.drop_partitions(text, timestamptz, integer) TO chat_system",
]

_GENERATIONS = [
    "ALTER TABLE chat.generations RENAME TO generations_before",
    "ALTER INDEX chat.generations_pkey RENAME TO generations_before_pkey",
    "ALTER INDEX chat.generations_running RENAME TO generations_before_running",
    f"CREATE TABLE chat.generations ({_GENERATION_COLUMNS.format(more=_MORE)}) PARTITION BY RANGE (id)",
    "CREATE INDEX generations_running ON chat.generations (started_at) WHERE status = 'running'",
    *tenant_table("chat", "generations", system="SELECT, UPDATE"),
    *_default_partition("generations"),
    f"INSERT INTO chat.generations ({_OLD}) SELECT {_OLD} FROM chat.generations_before",  # noqa: S608 - constants
    "DROP TABLE chat.generations_before",
]

_BUDGETS = [
    # `subject`: '*' for the tenant and as the default of each user or key, else the id of the user or key.
    # `source`: 'admin', or 'auth' for what an API key brings along; both bind. `version` is that of the API key.
    """
    CREATE TABLE chat.budgets (
        tenant_id uuid NOT NULL,
        id uuid NOT NULL,
        scope text NOT NULL CHECK (scope IN ('tenant', 'user', 'key')),
        subject text NOT NULL,
        period text NOT NULL CHECK (period IN ('day', 'month', 'total')),
        cap bigint NOT NULL CHECK (cap >= 0),
        enabled boolean NOT NULL DEFAULT true,
        source text NOT NULL DEFAULT 'admin' CHECK (source IN ('admin', 'auth')),
        version bigint NOT NULL DEFAULT 0,
        created_at timestamptz NOT NULL,
        updated_at timestamptz NOT NULL,
        PRIMARY KEY (tenant_id, id),
        UNIQUE (tenant_id, scope, subject, period, source),
        CHECK (scope <> 'tenant' OR subject = '*')
    )
    """,
    *tenant_table("chat", "budgets"),
    # `subject` is who pays: that of the budget, or the user or key for which the budget is the default. `period_start` 1970-01-01: total.
    # `notified` is the highest threshold (per cent) that was told, `refused` whether the first refusal was.
    """
    CREATE TABLE chat.budget_periods (
        tenant_id uuid NOT NULL,
        budget_id uuid NOT NULL,
        subject text NOT NULL,
        period_start date NOT NULL,
        spent bigint NOT NULL DEFAULT 0 CHECK (spent >= 0),
        reserved bigint NOT NULL DEFAULT 0 CHECK (reserved >= 0),
        notified smallint NOT NULL DEFAULT 0,
        refused boolean NOT NULL DEFAULT false,
        PRIMARY KEY (tenant_id, budget_id, subject, period_start),
        FOREIGN KEY (tenant_id, budget_id) REFERENCES chat.budgets (tenant_id, id) ON DELETE CASCADE
    ) WITH (fillfactor = 50)
    """,
    "CREATE INDEX budget_periods_age ON chat.budget_periods (period_start)",
    *tenant_table("chat", "budget_periods", system="SELECT, DELETE"),
    # No key to `generations`: a reservation may be made before the generation's row is committed.
    """
    CREATE TABLE chat.reservations (
        tenant_id uuid NOT NULL,
        generation_id uuid NOT NULL,
        budget_id uuid NOT NULL,
        subject text NOT NULL,
        period_start date NOT NULL,
        micros bigint NOT NULL CHECK (micros >= 0),
        created_at timestamptz NOT NULL,
        PRIMARY KEY (tenant_id, generation_id, budget_id),
        FOREIGN KEY (tenant_id, budget_id, subject, period_start)
            REFERENCES chat.budget_periods (tenant_id, budget_id, subject, period_start) ON DELETE CASCADE
    )
    """,
    "CREATE INDEX reservations_budget ON chat.reservations (tenant_id, budget_id, subject, period_start)",
    "CREATE INDEX reservations_age ON chat.reservations (created_at)",
    *tenant_table("chat", "reservations", system="SELECT"),
]

_USAGE = [
    """
    CREATE TABLE chat.usage (
        tenant_id uuid NOT NULL,
        at timestamptz NOT NULL,
        generation_id uuid NOT NULL,
        number integer NOT NULL,
        user_id uuid NOT NULL,
        key_id uuid,
        provider text NOT NULL,
        model text NOT NULL,
        provider_key text NOT NULL,
        tokens_in bigint NOT NULL CHECK (tokens_in >= 0),
        tokens_out bigint NOT NULL CHECK (tokens_out >= 0),
        reported boolean NOT NULL,
        counted_out bigint NOT NULL CHECK (counted_out >= 0),
        micros bigint NOT NULL CHECK (micros >= 0),
        price_version text NOT NULL,
        status text NOT NULL CHECK (status IN ('completed', 'failed', 'cancelled')),
        error_code text NOT NULL,
        first_token_ms bigint NOT NULL,
        PRIMARY KEY (tenant_id, at, generation_id, number)
    ) PARTITION BY RANGE (at)
    """,
    *tenant_table("chat", "usage"),
    "REVOKE UPDATE, DELETE ON chat.usage FROM chat_app",
    *_default_partition("usage"),
    # Sums of `usage` by the UTC day on which the generation started; key_id is the nil UUID for calls without an API key.
    # `requests` are generations that ended, `failed` those of them that failed, `attempts` the calls of providers.
    """
    CREATE TABLE chat.usage_daily (
        tenant_id uuid NOT NULL,
        day date NOT NULL,
        user_id uuid NOT NULL,
        key_id uuid NOT NULL,
        provider text NOT NULL,
        model text NOT NULL,
        requests bigint NOT NULL DEFAULT 0,
        failed bigint NOT NULL DEFAULT 0,
        attempts bigint NOT NULL DEFAULT 0,
        tokens_in bigint NOT NULL DEFAULT 0,
        tokens_out bigint NOT NULL DEFAULT 0,
        micros bigint NOT NULL DEFAULT 0,
        PRIMARY KEY (tenant_id, day, user_id, key_id, provider, model)
    ) WITH (fillfactor = 70)
    """,
    "CREATE INDEX usage_daily_user ON chat.usage_daily (tenant_id, user_id, day)",
    "CREATE INDEX usage_daily_age ON chat.usage_daily (day)",
    *tenant_table("chat", "usage_daily", system="SELECT, DELETE"),
    "REVOKE DELETE ON chat.usage_daily FROM chat_app",
]

UPGRADE: list[str] = [
    *_GENERATIONS,
    *_BUDGETS,
    *_USAGE,
    *_PARTITION_FUNCTIONS,
    "SELECT chat.ensure_partitions(now(), 2)",
]
DOWNGRADE: list[str] = [
    "DROP TABLE chat.usage_daily",
    "DROP TABLE chat.usage",
    "DROP TABLE chat.reservations",
    "DROP TABLE chat.budget_periods",
    "DROP TABLE chat.budgets",
    "DROP FUNCTION chat.drop_partitions(text, timestamptz, integer)",
    "DROP FUNCTION chat.ensure_partitions(timestamptz, integer)",
    "DROP FUNCTION chat.partition_bound(text, timestamptz)",
    "ALTER TABLE chat.generations RENAME TO generations_after",
    "ALTER INDEX chat.generations_pkey RENAME TO generations_after_pkey",
    "ALTER INDEX chat.generations_running RENAME TO generations_after_running",
    f"CREATE TABLE chat.generations ({_GENERATION_COLUMNS.format(more='')})",
    "CREATE INDEX generations_running ON chat.generations (started_at) WHERE status = 'running'",
    *tenant_table("chat", "generations", system="SELECT, UPDATE"),
    f"INSERT INTO chat.generations ({_OLD}) SELECT {_OLD} FROM chat.generations_after",  # noqa: S608 - constants
    "DROP TABLE chat.generations_after",
]


def upgrade() -> None:
    for statement in UPGRADE:
        op.execute(statement)


def downgrade() -> None:
    for statement in DOWNGRADE:
        op.execute(statement)
