"""The ledger on a real PostgreSQL: budgets hold, settlements are exact and happen once."""

from __future__ import annotations

import asyncio
from datetime import UTC, date, datetime, timedelta
from uuid import UUID

import pytest
from ledger_rig import KEY, OTHER_TENANT, TENANT, USER, LedgerRig
from sqlalchemy import text
from sqlalchemy.exc import ProgrammingError

from wireroom_chat.adapters.ledger import SqlLedger
from wireroom_chat.domain.budgets import NO_LIMIT, Period, Scope
from wireroom_chat.ports.generations import Generation
from wireroom_common.db import Database, DatabaseUrl
from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_common.ids import new_id
from wireroom_common.testing.plugin import MigratedDatabase
from wireroom_protos.events.v1 import events_pb2

NOON = datetime(2026, 3, 31, 12, tzinfo=UTC)


@pytest.fixture
async def rig(migrated_database: MigratedDatabase) -> LedgerRig:
    return LedgerRig(await migrated_database("chat"), NOON)


async def refused(rig: LedgerRig, micros: int, **payer: UUID) -> WireroomError:
    with pytest.raises(WireroomError) as caught:
        await rig.ledger.reserve(rig.generation(**payer), micros)
    assert (caught.value.kind, caught.value.code) == (ErrorKind.RATE_LIMITED, "insufficient_quota")
    return caught.value


async def test_settlement_books_each_call_and_turns_the_reservation_into_spending(rig: LedgerRig) -> None:
    budget = await rig.budget(1000)
    generation = rig.generation(key=KEY)
    await rig.ledger.start(generation)
    assert await rig.ledger.reserve(generation, 300) == 700
    assert await rig.ledger.reserve(generation, 200) == 500
    assert await rig.period(budget) == (0, 500)

    await rig.ledger.settle(generation, rig.settlement(100, 40))

    assert await rig.period(budget) == (140, 0)
    [row] = await rig.rows("SELECT * FROM generations")
    assert (row.status, row.micros, row.path, row.key_id, row.origin_kind, row.origin_id, row.provider) == (
        "completed",
        140,
        ["alpha/m", "beta/m"],
        KEY,
        "session",
        "m1",
        "beta",
    )
    usage = await rig.rows("SELECT * FROM usage ORDER BY number")
    assert [(u.provider, u.micros, u.reported, u.price_version, u.provider_key, u.user_id, u.key_id) for u in usage] == [
        ("alpha", 100, True, "2026-01", "main", USER, KEY),
        ("beta", 40, False, "2026-01", "main", USER, KEY),
    ]
    daily = await rig.rows("SELECT * FROM usage_daily ORDER BY provider")
    assert [(d.day, d.provider, d.requests, d.attempts, d.micros) for d in daily] == [
        (date(2026, 3, 31), "alpha", 0, 1, 100),
        (date(2026, 3, 31), "beta", 1, 1, 40),
    ]
    assert await rig.rows("SELECT * FROM reservations") == []
    [told] = [events_pb2.ChatCompletionCompleted.FromString(data) for data in await rig.events("chat.completion.completed")]
    assert (told.usage.micros, told.usage.attempts, told.usage.key_id) == (140, 2, str(KEY))


async def test_settling_twice_at_once_and_again_books_once(rig: LedgerRig) -> None:
    budget = await rig.budget(1000)
    generation = rig.generation()
    await rig.ledger.start(generation)
    await rig.ledger.reserve(generation, 500)
    await asyncio.gather(*(rig.ledger.settle(generation, rig.settlement(120)) for _ in range(5)))
    await rig.ledger.settle(generation, rig.settlement(120))
    # A start that comes late does not open it again.
    await rig.ledger.start(generation)

    assert await rig.period(budget) == (120, 0)
    assert len(await rig.rows("SELECT 1 FROM usage")) == 1
    assert [row.status for row in await rig.rows("SELECT status FROM generations")] == ["completed"]
    assert len(await rig.events("chat.completion.completed")) == 1


async def test_load_of_many_tenants_loses_no_row(rig: LedgerRig, fresh_database_url: str) -> None:
    """Whoever waits, waits in front of the pool and not in it: the pool gives up almost at once here."""
    small = Database(DatabaseUrl.parse(fresh_database_url), "chat", pool_size=1, pool_timeout=0.2)
    ledger = SqlLedger(small, rig.clock)
    generations = [rig.generation(tenant=new_id()) for _ in range(300)]

    async def run(generation: Generation) -> None:
        await ledger.start(generation)
        await ledger.reserve(generation, 5)
        await ledger.settle(generation, rig.settlement(5))

    try:
        await asyncio.gather(*map(run, generations))
    finally:
        await small.close()
    async with rig.database.system() as connection:
        settled = await connection.execute(text("SELECT count(*) FROM generations WHERE status = 'completed'"))
    assert settled.scalar_one() == len(generations)


async def test_settlement_needs_no_row_and_no_budget(rig: LedgerRig) -> None:
    await rig.ledger.settle(rig.generation(), rig.settlement(7))
    await rig.ledger.settle(rig.generation(), rig.settlement(status="failed"))
    [daily] = await rig.rows("SELECT sum(requests) AS requests, sum(failed) AS failed, sum(micros) AS micros FROM usage_daily")
    assert (daily.requests, daily.failed, daily.micros) == (2, 1, 7)
    [failed] = await rig.events("chat.completion.failed")
    assert events_pb2.ChatCompletionFailed.FromString(failed).provider == "wireroom"


async def test_parallel_requests_do_not_pass_the_cap(rig: LedgerRig, fresh_database_url: str) -> None:
    """500 requests of several replicas; each costs what it has set aside, the dearest that may happen."""
    cap, cost = 1_000_000, 7_000
    budgets = [
        await rig.budget(cap),
        await rig.budget(cap, Scope.USER, "*", Period.DAY),
        await rig.budget(cap, Scope.KEY, str(KEY), Period.TOTAL),
    ]
    replicas = [Database(DatabaseUrl.parse(fresh_database_url), "chat", pool_size=6, pool_timeout=60) for _ in range(3)]
    ledgers = [SqlLedger(database, rig.clock) for database in replicas]
    highest = 0

    async def request(number: int) -> bool:
        nonlocal highest
        ledger, generation = ledgers[number % 3], rig.generation(key=KEY if number % 2 else None)
        try:
            await ledger.reserve(generation, cost)
        except WireroomError as error:
            assert error.code == "insufficient_quota"  # noqa: PT017 - others pass
            return False
        if number % 10 == 0:
            rows = await rig.rows("SELECT max(spent + reserved) AS most FROM budget_periods")
            highest = max(highest, rows[0].most)
        # Every fifth is cheaper than thought: the rest goes back.
        await ledger.settle(generation, rig.settlement(cost if number % 5 else cost // 2))
        return True

    try:
        passed = sum(await asyncio.gather(*(request(number) for number in range(500))))
    finally:
        for database in replicas:
            await database.close()

    spent, reserved = await rig.period(budgets[0])
    [ledger_total] = await rig.rows("SELECT sum(micros) AS micros, count(*) AS calls FROM usage")
    assert 0 < highest <= cap
    assert spent <= cap
    assert reserved == 0
    assert ledger_total.micros == spent
    assert ledger_total.calls == passed
    # Whatever was refused would not have fitted beside what was set aside then.
    returned = passed * cost - spent
    assert spent + returned > cap - 2 * cost
    assert passed < 500
    assert await rig.period(budgets[1]) == (spent, 0)


async def test_reserving_is_all_or_nothing_over_budgets(rig: LedgerRig) -> None:
    tenant = await rig.budget(1000)
    user = await rig.budget(100, Scope.USER, str(USER), Period.DAY)
    error = await refused(rig, 200)
    assert "your account" in error.detail
    assert (await rig.period(tenant), await rig.period(user)) == ((0, 0), (0, 0))
    assert await rig.rows("SELECT * FROM reservations") == []
    # The tightest budget tells what is left.
    assert await rig.ledger.reserve(rig.generation(), 60) == 40


async def test_own_budget_takes_the_place_of_the_default(rig: LedgerRig) -> None:
    other = new_id()
    await rig.budget(10, Scope.USER, "*", Period.DAY)
    await rig.budget(500, Scope.USER, str(USER), Period.DAY)
    assert await rig.ledger.reserve(rig.generation(), 400) == 100
    await refused(rig, 11, user=other)
    assert await rig.ledger.reserve(rig.generation(user=other), 10) == 0
    # Each has an account of its own under the default.
    assert await rig.ledger.reserve(rig.generation(user=new_id()), 10) == 0


async def test_a_cap_of_nothing_refuses_and_a_free_call_passes(rig: LedgerRig) -> None:
    await rig.budget(0)
    await refused(rig, 1)
    assert await rig.ledger.reserve(rig.generation(), 0) == 0


async def test_new_budget_counts_what_the_period_has_seen(rig: LedgerRig) -> None:
    await rig.ledger.settle(rig.generation(key=KEY), rig.settlement(70))
    rig.clock.advance(-2 * 86400)
    await rig.ledger.settle(rig.generation(key=KEY), rig.settlement(20))
    rig.clock.advance(2 * 86400)
    await rig.budget(100)
    await rig.budget(1000, Scope.KEY, str(KEY), Period.DAY)
    found = {s.budget.terms.period: s for s in await rig.budgets.spending(TENANT, USER, KEY)}
    assert (found[Period.MONTH].spent, found[Period.DAY].spent) == (90, 70)
    await refused(rig, 11, key=KEY)
    assert await rig.ledger.reserve(rig.generation(key=KEY), 10) == 0
    # A settlement that finds no row of the period writes a right one, too.
    await rig.budget(5000, Scope.USER, str(USER), Period.TOTAL)
    await rig.ledger.settle(rig.generation(), rig.settlement(3))
    assert [s.spent for s in await rig.budgets.spending(TENANT, USER, None) if s.budget.terms.period is Period.TOTAL] == [93]


async def test_periods_begin_anew_and_a_generation_counts_where_it_started(rig: LedgerRig) -> None:
    month, day = await rig.budget(100), await rig.budget(100, period=Period.DAY)
    rig.clock.advance(12 * 3600 - 1)
    late = rig.generation()
    await rig.ledger.reserve(late, 100)
    await refused(rig, 1)
    rig.clock.advance(2)
    assert await rig.ledger.reserve(rig.generation(), 100) == 0
    # Continued after midnight: still an affair of March.
    with pytest.raises(WireroomError, match="insufficient_quota"):
        await rig.ledger.reserve(late, 1)
    await rig.ledger.settle(late, rig.settlement(90))
    periods = await rig.rows(
        "SELECT budget_id, period_start, spent, reserved FROM budget_periods ORDER BY period_start, budget_id"
    )
    assert [tuple(row) for row in periods] == [
        (month, date(2026, 3, 1), 90, 0),
        (day, date(2026, 3, 31), 90, 0),
        *[(budget, date(2026, 4, 1), 0, 100) for budget in sorted((month, day))],
    ]
    [used] = await rig.rows("SELECT day FROM usage_daily")
    assert used.day == date(2026, 3, 31)


async def test_budget_that_is_taken_away_releases_and_a_disabled_one_still_counts(rig: LedgerRig) -> None:
    gone, paused = await rig.budget(100), await rig.budget(100, period=Period.DAY)
    generation = rig.generation()
    await rig.ledger.reserve(generation, 50)
    await rig.budgets.delete(TENANT, gone, actor="test")
    async with rig.database.tenant(TENANT) as connection:
        await connection.exec_driver_sql("UPDATE budgets SET enabled = false")
    await rig.ledger.settle(generation, rig.settlement(30))
    assert await rig.period(paused) == (30, 0)
    assert await rig.ledger.reserve(rig.generation(), 10**9) == NO_LIMIT


async def test_payers_without_a_budget_are_remembered_for_seconds_only(rig: LedgerRig) -> None:
    generation = rig.generation()
    assert rig.ledger.binds(generation)
    assert await rig.ledger.reserve(generation, 10) == NO_LIMIT
    assert not rig.ledger.binds(generation)
    assert rig.ledger.binds(rig.generation(user=new_id()))
    rig.ledger.unbound.forget(OTHER_TENANT)
    assert not rig.ledger.binds(generation)
    rig.ledger.unbound.forget(TENANT)
    assert rig.ledger.binds(generation)
    await rig.ledger.reserve(generation, 10)
    rig.clock.advance(5)
    assert rig.ledger.binds(generation)


async def test_thresholds_and_exhaustion_are_told_once_per_period(rig: LedgerRig) -> None:
    budget = await rig.budget(100)
    for micros in (79, 1, 1):
        await rig.ledger.settle(rig.generation(), rig.settlement(micros))
    told = [events_pb2.ChatBudgetThreshold.FromString(data) for data in await rig.events("chat.budget.threshold")]
    assert [(event.percent, event.spent_micros, event.limit_micros, event.budget_id) for event in told] == [
        (80, 80, 100, str(budget))
    ]
    await refused(rig, 50)
    await refused(rig, 50)
    [exhausted] = [events_pb2.ChatBudgetExhausted.FromString(data) for data in await rig.events("chat.budget.exhausted")]
    assert (exhausted.spent_micros, exhausted.scope, exhausted.period_start) == (81, "tenant", "2026-03-01")
    await rig.ledger.settle(rig.generation(), rig.settlement(200))
    assert len(await rig.events("chat.budget.threshold")) == 2
    rig.clock.advance(86400)
    await rig.ledger.settle(rig.generation(), rig.settlement(200))
    percents = [events_pb2.ChatBudgetThreshold.FromString(data).percent for data in await rig.events("chat.budget.threshold")]
    assert percents == [80, 100, 80, 100]


async def test_failed_settlement_leaves_everything_as_it_was_and_can_be_repeated(rig: LedgerRig) -> None:
    budget = await rig.budget(1000)
    generation = rig.generation()
    await rig.ledger.start(generation)
    await rig.ledger.reserve(generation, 500)
    broken = rig.settlement(parts=(rig.part(1, 10), rig.part(1, 10)))
    with pytest.raises(Exception, match="usage"):
        await rig.ledger.settle(generation, broken)
    assert await rig.period(budget) == (0, 500)
    assert [row.status for row in await rig.rows("SELECT status FROM generations")] == ["running"]
    assert await rig.events("chat.completion.completed") == []
    await rig.ledger.settle(generation, rig.settlement(20))
    assert await rig.period(budget) == (20, 0)


async def test_abandoned_generations_are_closed_and_their_reservations_released(rig: LedgerRig) -> None:
    budget = await rig.budget(1000)
    lost = rig.generation()
    await rig.ledger.start(lost)
    await rig.ledger.reserve(lost, 400)
    rig.clock.advance(3600)
    running = rig.generation()
    await rig.ledger.start(running)
    await rig.ledger.reserve(running, 300)
    assert await rig.ledger.settle_abandoned(rig.clock, timedelta(minutes=30)) == 1
    assert await rig.ledger.settle_abandoned(rig.clock, timedelta(minutes=30)) == 0
    assert await rig.period(budget) == (0, 300)
    rows = await rig.rows("SELECT status, error_code, finished_at FROM generations ORDER BY started_at")
    assert [(row.status, row.error_code) for row in rows] == [("failed", "process_lost"), ("running", "")]
    assert rows[0].finished_at == rig.clock.now()
    [event] = [events_pb2.ChatCompletionFailed.FromString(data) for data in await rig.events("chat.completion.failed")]
    assert (event.completion_id, event.error_code) == (lost.completion_id, "process_lost")


async def test_orphaned_reservations_are_released(rig: LedgerRig) -> None:
    budget = await rig.budget(1000)
    unwritten, ended, running = rig.generation(), rig.generation(), rig.generation()
    await rig.ledger.reserve(unwritten, 100)
    await rig.ledger.settle(ended, rig.settlement(5))
    await rig.ledger.reserve(ended, 200)
    await rig.ledger.start(running)
    await rig.ledger.reserve(running, 300)
    assert await rig.ledger.release_orphans(timedelta(minutes=30)) == 0
    rig.clock.advance(61)
    assert await rig.ledger.release_orphans(timedelta(minutes=30)) == 1
    assert await rig.period(budget) == (5, 400)
    rig.clock.advance(1800)
    assert await rig.ledger.release_orphans(timedelta(minutes=30)) == 1
    assert await rig.period(budget) == (5, 300)


async def test_tenants_do_not_see_or_spend_each_other(rig: LedgerRig) -> None:
    budget = await rig.budget(100)
    assert await rig.ledger.reserve(rig.generation(tenant=OTHER_TENANT), 1000) == NO_LIMIT
    await rig.ledger.settle(rig.generation(tenant=OTHER_TENANT), rig.settlement(1000))
    assert await rig.ledger.reserve(rig.generation(), 1) == 99
    for table in ("budgets", "budget_periods", "reservations", "usage", "usage_daily", "generations"):
        for row in await rig.rows(f"SELECT tenant_id FROM {table}", OTHER_TENANT):  # noqa: S608 - names above
            assert row.tenant_id == OTHER_TENANT
    with pytest.raises(WireroomError, match="budget_not_found"):
        await rig.budgets.delete(OTHER_TENANT, budget, actor="test")
    with pytest.raises(ProgrammingError, match="row-level security"):
        async with rig.database.tenant(OTHER_TENANT) as connection:
            await connection.exec_driver_sql(
                "INSERT INTO usage_daily (tenant_id, day, user_id, key_id, provider, model)"  # noqa: S608 - constants
                f" VALUES ('{TENANT}', '2026-03-01', '{USER}', '{KEY}', 'p', 'm')"
            )
