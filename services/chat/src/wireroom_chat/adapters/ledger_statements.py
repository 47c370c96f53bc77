"""The ledger's SQL. Whoever locks several rows of `budget_periods` does so in the order of its key, and takes no other lock after that.

What runs for every answer is a `Statement`; its results and most of its parameters are JSON, of any number of generations at once.
"""

from __future__ import annotations

from sqlalchemy import text

from wireroom_common.db.prepared import Statement

# In a `Statement` the tenant is always the first parameter.
_TENANT = "CAST($1 AS uuid)"


# The budgets that bind the payer user/key of a generation that started on a day of a month. The default of each user or key gives way
# to a budget of their own; what came with an API key binds beside both.
def _binding(tenant: str, user: str, key: str, day: str, month: str) -> str:
    return f"""
    SELECT b.id AS budget_id, b.scope, b.period, b.cap,
        CASE b.scope WHEN 'tenant' THEN '*' WHEN 'user' THEN {user} ELSE {key} END AS subject,
        CASE b.period WHEN 'day' THEN {day} WHEN 'month' THEN {month} ELSE DATE '1970-01-01' END AS period_start
    FROM budgets b
    WHERE b.tenant_id = {tenant} AND b.enabled
      AND (b.scope = 'tenant' OR (b.scope = 'user' AND b.subject IN ({user}, '*'))
           OR (b.scope = 'key' AND {key} <> '' AND b.subject IN ({key}, '*')))
      AND NOT (b.scope <> 'tenant' AND b.subject = '*' AND EXISTS (
          SELECT 1 FROM budgets o WHERE o.tenant_id = b.tenant_id AND o.scope = b.scope AND o.period = b.period AND o.source = b.source
            AND o.enabled AND o.subject = CASE b.scope WHEN 'user' THEN {user} ELSE {key} END))
"""  # noqa: S608 - constants


_BINDING = _binding(":tenant_id", "CAST(:user AS text)", "CAST(:key AS text)", "CAST(:day AS date)", "CAST(:month AS date)")


# What the payer has spent in the period before its first row in `budget_periods`: a budget counts from the period's start, not its own.
def _spent_before(tenant: str, user: str, key: str) -> str:
    return f"""
    (SELECT COALESCE(sum(d.micros), 0) FROM usage_daily d
     WHERE d.tenant_id = {tenant} AND d.day >= n.period_start
       AND d.day < CASE n.period WHEN 'day' THEN n.period_start + 1 WHEN 'month' THEN CAST(n.period_start + interval '1 month' AS date)
                   ELSE DATE 'infinity' END
       AND (n.scope = 'tenant' OR (n.scope = 'user' AND d.user_id = CAST(CASE n.scope WHEN 'user' THEN {user} END AS uuid))
            OR (n.scope = 'key' AND d.key_id = CAST(CASE n.scope WHEN 'key' THEN {key} END AS uuid))))
"""  # noqa: S608 - constants


_SPENT_BEFORE = _spent_before(":tenant_id", "CAST(:user_id AS text)", "CAST(:key_id AS text)")

# $2 payer: user, key, day, month, generation and micros. No row: nothing binds. `open` false: the period has no row yet (OPEN_PERIODS makes
# it). `remaining` null: nothing was set aside anywhere, because this cap or another would have been passed.
RESERVE = Statement(
    f"""
    WITH asked AS MATERIALIZED (
        SELECT * FROM jsonb_to_record(CAST($2 AS jsonb)) AS a("user" text, key text, day date, month date, id uuid, micros bigint,
            now timestamptz)
    ),
    binding AS MATERIALIZED (
        SELECT n.* FROM asked, LATERAL ({_binding(_TENANT, 'asked."user"', "asked.key", "asked.day", "asked.month")}) n
    ),
    locked AS MATERIALIZED (
        SELECT p.budget_id, p.subject, p.period_start, p.spent, p.reserved, p.refused, binding.cap
        FROM budget_periods p JOIN binding ON p.budget_id = binding.budget_id AND p.subject = binding.subject
            AND p.period_start = binding.period_start
        WHERE p.tenant_id = {_TENANT}
        ORDER BY p.budget_id, p.subject, p.period_start
        FOR UPDATE OF p
    ),
    fitting AS (
        SELECT count(*) = (SELECT count(*) FROM binding)
            AND bool_and(spent + reserved + (SELECT micros FROM asked) <= cap) AS fits FROM locked
    ),
    taken AS (
        UPDATE budget_periods p SET reserved = p.reserved + a.micros
        FROM locked l, fitting f, asked a
        WHERE f.fits AND p.tenant_id = {_TENANT} AND p.budget_id = l.budget_id AND p.subject = l.subject
            AND p.period_start = l.period_start
        RETURNING p.budget_id, p.subject, p.period_start, l.cap - p.spent - p.reserved AS remaining
    ),
    set_aside AS (
        INSERT INTO reservations AS r (tenant_id, generation_id, budget_id, subject, period_start, micros, created_at)
        SELECT {_TENANT}, a.id, t.budget_id, t.subject, t.period_start, a.micros, a.now FROM taken t, asked a
        ON CONFLICT (tenant_id, generation_id, budget_id) DO UPDATE SET micros = r.micros + excluded.micros
    )
    SELECT json_build_object('budget_id', budget_id, 'scope', binding.scope, 'subject', binding.subject, 'period', binding.period,
        'period_start', binding.period_start, 'cap', binding.cap, 'spent', locked.spent, 'reserved', locked.reserved,
        'refused', locked.refused, 'open', locked.budget_id IS NOT NULL, 'remaining', taken.remaining)
    FROM binding LEFT JOIN locked USING (budget_id) LEFT JOIN taken USING (budget_id)
    """  # noqa: S608 - constants
)

OPEN_PERIODS = text(
    f"""
    INSERT INTO budget_periods (tenant_id, budget_id, subject, period_start, spent)
    SELECT :tenant_id, n.budget_id, n.subject, n.period_start, {_SPENT_BEFORE}
    FROM ({_BINDING}) n ORDER BY n.budget_id, n.subject, n.period_start
    ON CONFLICT DO NOTHING
    """  # noqa: S608 - constants
)

# What is told of a place in `budget_periods`, each with its event: that it refused ($2 with `refused`), told by whoever marks it first, or
# that spending passed `percent`. `events` of a place that another has marked meanwhile are not sent.
TELL = Statement(
    f"""
    WITH news AS MATERIALIZED (
        SELECT * FROM jsonb_to_recordset(CAST($2 AS jsonb)) AS n(budget_id uuid, subject text, period_start date, refused boolean,
            percent integer, traceparent text, events jsonb)
    ),
    marked AS (
        UPDATE budget_periods p SET refused = p.refused OR n.refused, notified = GREATEST(p.notified, n.percent)
        FROM news n
        WHERE p.tenant_id = {_TENANT} AND p.budget_id = n.budget_id AND p.subject = n.subject AND p.period_start = n.period_start
            AND (n.refused AND NOT p.refused OR n.percent > p.notified)
        RETURNING n.budget_id, n.traceparent, n.events
    )
    INSERT INTO outbox (id, tenant_id, type, subject, partition_key, actor, traceparent, causation_id, data)
    SELECT e.id, {_TENANT}, e.type, CAST(marked.budget_id AS text), CAST(marked.budget_id AS text), '', marked.traceparent, '',
        decode(e.data, 'base64')
    FROM marked, jsonb_to_recordset(marked.events) AS e(id uuid, type text, data text)
    """  # noqa: S608 - constants
)

# One row per element of $2.
START = Statement(
    f"""
    INSERT INTO generations (tenant_id, id, user_id, key_id, completion_id, model, status, started_at, origin_kind, origin_id,
        checkpoint)
    SELECT {_TENANT}, g.id, g.user_id, CAST(NULLIF(g.key, '') AS uuid), g.completion_id, g.model, 'running', g.started_at,
        g.origin_kind, g.origin_id, g.checkpoint
    FROM jsonb_to_recordset(CAST($2 AS jsonb)) AS g(id uuid, user_id uuid, key text, completion_id text, model text,
        started_at timestamptz, origin_kind text, origin_id text, checkpoint jsonb)
    ORDER BY g.id
    ON CONFLICT DO NOTHING
    """  # noqa: S608 - constants
)

# Settlements ($2) of different generations. Everything hangs on `closed`, which has a row only for the one settlement that ends
# its generation. The result: the budgets charged, and with how much.
SETTLE = Statement(
    f"""
    WITH settled AS MATERIALIZED (
        SELECT * FROM jsonb_to_recordset(CAST($2 AS jsonb)) AS s(id uuid, user_id uuid, key text, payer_key uuid,
            completion_id text, model text, provider text, answering_model text, status text, answer_mode text, error_code text,
            tokens_in bigint, tokens_out bigint, citations integer, first_token_ms bigint, started_at timestamptz,
            finished_at timestamptz, origin_kind text, origin_id text, micros bigint, path text[], cache text, retrieval text, day date,
            month date, traceparent text, parts jsonb, events jsonb)
    ),
    closed AS (
        INSERT INTO generations AS g (tenant_id, id, user_id, key_id, completion_id, model, provider, status, answer_mode, error_code,
            tokens_in, tokens_out, citations, first_token_ms, started_at, finished_at, origin_kind, origin_id, micros, path, cache,
            retrieval)
        SELECT {_TENANT}, id, user_id, CAST(NULLIF(key, '') AS uuid), completion_id, model, provider, status, answer_mode, error_code,
            tokens_in, tokens_out, citations, first_token_ms, started_at, finished_at, origin_kind, origin_id, micros, path, cache,
            retrieval
        FROM settled ORDER BY id
        ON CONFLICT (tenant_id, id) DO UPDATE SET provider = excluded.provider, status = excluded.status,
            answer_mode = excluded.answer_mode, error_code = excluded.error_code, tokens_in = excluded.tokens_in,
            tokens_out = excluded.tokens_out, citations = excluded.citations, first_token_ms = excluded.first_token_ms,
            finished_at = excluded.finished_at, micros = excluded.micros, path = excluded.path, cache = excluded.cache,
            retrieval = excluded.retrieval, checkpoint = NULL
        WHERE g.status = 'running'
        RETURNING g.id
    ),
    ended AS MATERIALIZED (SELECT settled.* FROM settled JOIN closed USING (id)),
    part AS MATERIALIZED (
        SELECT ended.id AS generation_id, p.* FROM ended, jsonb_to_recordset(ended.parts) AS p(number integer, provider text, model text,
            key text, tokens_in bigint, tokens_out bigint, reported boolean, counted_out bigint, micros bigint, price_version text,
            status text, error_code text, first_token_ms bigint)
    ),
    booked AS (
        INSERT INTO usage (tenant_id, at, generation_id, number, user_id, key_id, provider, model, provider_key, tokens_in, tokens_out,
            reported, counted_out, micros, price_version, status, error_code, first_token_ms)
        SELECT {_TENANT}, ended.started_at, ended.id, part.number, ended.user_id, CAST(NULLIF(ended.key, '') AS uuid), part.provider,
            part.model, part.key, part.tokens_in, part.tokens_out, part.reported, part.counted_out, part.micros, part.price_version,
            part.status, part.error_code, part.first_token_ms
        FROM ended JOIN part ON part.generation_id = ended.id
    ),
    daily AS (
        INSERT INTO usage_daily AS d (tenant_id, day, user_id, key_id, provider, model, requests, failed, attempts, tokens_in,
            tokens_out, micros)
        SELECT {_TENANT}, day, user_id, payer_key, provider, model, sum(requests), sum(failed), sum(attempts), sum(tokens_in),
            sum(tokens_out), sum(micros)
        FROM (
            SELECT ended.day, ended.user_id, ended.payer_key, part.provider, part.model, 0 AS requests, 0 AS failed, 1 AS attempts,
                part.tokens_in, part.tokens_out, part.micros
            FROM ended JOIN part ON part.generation_id = ended.id
            UNION ALL
            SELECT day, user_id, payer_key, provider, answering_model, 1, CASE WHEN status = 'failed' THEN 1 ELSE 0 END, 0, 0, 0, 0
            FROM ended
        ) AS each
        GROUP BY day, user_id, payer_key, provider, model ORDER BY day, user_id, payer_key, provider, model
        ON CONFLICT (tenant_id, day, user_id, key_id, provider, model) DO UPDATE SET requests = d.requests + excluded.requests,
            failed = d.failed + excluded.failed, attempts = d.attempts + excluded.attempts,
            tokens_in = d.tokens_in + excluded.tokens_in, tokens_out = d.tokens_out + excluded.tokens_out,
            micros = d.micros + excluded.micros
    ),
    released AS (
        DELETE FROM reservations r USING closed WHERE r.tenant_id = {_TENANT} AND r.generation_id = closed.id
        RETURNING r.generation_id, r.budget_id, r.subject, r.period_start, r.micros
    ),
    freed AS (
        SELECT budget_id, subject, period_start, sum(micros) AS micros FROM released GROUP BY budget_id, subject, period_start
    ),
    due AS MATERIALIZED (
        SELECT id, user_id, key, day, month, micros FROM ended
        WHERE micros > 0 OR EXISTS (SELECT 1 FROM released WHERE released.generation_id = ended.id)
    ),
    bound AS MATERIALIZED (
        SELECT w.user_id, w.key, w.day, w.month, n.budget_id, n.subject, n.period_start
        FROM (SELECT DISTINCT user_id, key, day, month FROM due) w
        CROSS JOIN LATERAL ({_binding(_TENANT, "CAST(w.user_id AS text)", "w.key", "w.day", "w.month")}) n
    ),
    owed AS MATERIALIZED (
        SELECT budget_id, subject, period_start, sum(micros) AS micros
        FROM (
            SELECT due.id, due.micros, bound.budget_id, bound.subject, bound.period_start
            FROM due JOIN bound USING (user_id, key, day, month)
            UNION
            SELECT due.id, due.micros, released.budget_id, released.subject, released.period_start
            FROM due JOIN released ON released.generation_id = due.id
        ) AS each
        GROUP BY budget_id, subject, period_start
    ),
    charged AS (
        INSERT INTO budget_periods AS p (tenant_id, budget_id, subject, period_start, spent)
        SELECT {_TENANT}, n.budget_id, n.subject, n.period_start,
            n.micros + CASE WHEN p.budget_id IS NULL THEN {_spent_before(_TENANT, "n.subject", "n.subject")} ELSE 0 END
        FROM (SELECT owed.*, b.scope, b.period FROM owed JOIN budgets b ON b.tenant_id = {_TENANT} AND b.id = owed.budget_id) n
            LEFT JOIN budget_periods p ON p.tenant_id = {_TENANT} AND p.budget_id = n.budget_id AND p.subject = n.subject
                AND p.period_start = n.period_start
        ORDER BY n.budget_id, n.subject, n.period_start
        ON CONFLICT (tenant_id, budget_id, subject, period_start) DO UPDATE SET
            spent = p.spent + (SELECT o.micros FROM owed o WHERE o.budget_id = p.budget_id AND o.subject = p.subject
                AND o.period_start = p.period_start),
            reserved = p.reserved - COALESCE((SELECT f.micros FROM freed f WHERE f.budget_id = p.budget_id AND f.subject = p.subject
                AND f.period_start = p.period_start), 0)
        RETURNING p.budget_id, p.subject, p.period_start, p.spent, p.notified
    ),
    told AS (
        INSERT INTO outbox (id, tenant_id, type, subject, partition_key, actor, traceparent, causation_id, data)
        SELECT e.id, {_TENANT}, e.type, ended.completion_id, ended.completion_id, CAST(ended.user_id AS text), ended.traceparent, '',
            decode(e.data, 'base64')
        FROM ended, jsonb_to_recordset(ended.events) AS e(id uuid, type text, data text)
    )
    SELECT json_build_object('budget_id', charged.budget_id, 'subject', charged.subject, 'period_start', charged.period_start,
        'spent', charged.spent, 'notified', charged.notified, 'micros', owed.micros, 'scope', b.scope, 'period', b.period, 'cap', b.cap)
    FROM charged JOIN owed USING (budget_id, subject, period_start) JOIN budgets b ON b.tenant_id = {_TENANT} AND b.id = charged.budget_id
    ORDER BY charged.budget_id, charged.subject, charged.period_start
    """  # noqa: S608 - constants
)

# A reservation that its generation's settlement will not release, because it came after that or the generation was never written.
RELEASE = text(
    """
    WITH released AS (
        DELETE FROM reservations WHERE tenant_id = :tenant_id AND generation_id = :id
        RETURNING budget_id, subject, period_start, micros
    ),
    locked AS MATERIALIZED (
        SELECT p.budget_id, p.subject, p.period_start, released.micros FROM budget_periods p JOIN released
            ON p.budget_id = released.budget_id AND p.subject = released.subject AND p.period_start = released.period_start
        WHERE p.tenant_id = :tenant_id ORDER BY p.budget_id, p.subject, p.period_start FOR UPDATE OF p
    )
    UPDATE budget_periods p SET reserved = p.reserved - locked.micros FROM locked
    WHERE p.tenant_id = :tenant_id AND p.budget_id = locked.budget_id AND p.subject = locked.subject
        AND p.period_start = locked.period_start
    """
)

ABANDONED = text(
    "SELECT tenant_id, id, user_id, key_id, completion_id, model, started_at, origin_kind, origin_id, checkpoint FROM generations"
    " WHERE status = 'running' AND started_at < :before ORDER BY started_at LIMIT :limit"
)

ORPHANS = text(
    """
    SELECT r.tenant_id, r.generation_id FROM reservations r
        LEFT JOIN generations g ON g.tenant_id = r.tenant_id AND g.id = r.generation_id
    WHERE r.created_at < CASE WHEN g.id IS NULL THEN CAST(:unwritten_before AS timestamptz)
            ELSE CAST(:ended_before AS timestamptz) END
        AND g.status IS DISTINCT FROM 'running'
    GROUP BY r.tenant_id, r.generation_id LIMIT :limit
    """
)

# `payer` is whose spending it is, `subject` that of the budget.
SPENDING = text(
    f"""
    SELECT b.id, b.scope, b.subject, b.period, b.cap, b.enabled, b.source, b.created_at, b.updated_at, n.subject AS payer, n.period_start,
        COALESCE(p.spent, {_SPENT_BEFORE}) AS spent, COALESCE(p.reserved, 0) AS reserved
    FROM ({_BINDING}) n
    JOIN budgets b ON b.tenant_id = :tenant_id AND b.id = n.budget_id
    LEFT JOIN budget_periods p ON p.tenant_id = :tenant_id AND p.budget_id = n.budget_id AND p.subject = n.subject
        AND p.period_start = n.period_start
    ORDER BY b.scope, b.period, b.id
    """  # noqa: S608 - constants
)
