"""What budgets and usage tell, over the servicer; partitions and retention of the ledger; budgets of API keys."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ledger_rig import KEY, OTHER_TENANT, TENANT, USER, LedgerRig

from wireroom_chat.adapters.ledger_upkeep import LedgerUpkeep
from wireroom_chat.adapters.usage_sql import SqlUsage
from wireroom_chat.domain.usage_csv import csv_lines
from wireroom_chat.transport.budget_events import CONSUMER, BudgetEvents
from wireroom_chat.transport.budgets import BudgetServicer
from wireroom_common.bus import Envelope, event_type
from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_common.ids import new_id
from wireroom_common.principal import Principal, PrincipalKind, set_current_principal
from wireroom_common.testing.plugin import MigratedDatabase
from wireroom_protos.chat.v1 import budgets_pb2
from wireroom_protos.events.v1 import events_pb2

NOON = datetime(2026, 3, 31, 12, tzinfo=UTC)
OTHER = UUID("0198a000-0000-7000-8000-0000000000bb")
EVERYTHING = frozenset({"budgets:manage", "usage:read:own", "usage:read:tenant"})


@pytest.fixture
async def rig(migrated_database: MigratedDatabase) -> LedgerRig:
    return LedgerRig(await migrated_database("chat"), NOON)


@pytest.fixture
def servicer(rig: LedgerRig) -> Iterator[BudgetServicer]:
    yield BudgetServicer(rig.budgets, SqlUsage(rig.database), rig.clock)
    set_current_principal(None)


def act_as(
    user: UUID = USER, *, tenant: UUID = TENANT, permissions: frozenset[str] = EVERYTHING, key: UUID | None = None
) -> None:
    kind = PrincipalKind.API_KEY if key else PrincipalKind.USER
    set_current_principal(Principal(kind, str(user), tenant, frozenset(), permissions, credential_id=str(key or "session")))


async def exported(servicer: BudgetServicer, **request: Any) -> list[list[str]]:
    pieces = [piece.data async for piece in servicer.ExportUsage(budgets_pb2.ExportUsageRequest(**request), None)]
    return list(csv.reader(io.StringIO(b"".join(pieces).decode(), newline="")))


async def refusal(call: Any) -> tuple[ErrorKind, str]:
    with pytest.raises(WireroomError) as caught:
        await call
    return caught.value.kind, caught.value.code


async def test_budgets_are_set_replaced_listed_and_deleted(rig: LedgerRig, servicer: BudgetServicer) -> None:
    act_as()
    made = []
    for number in range(3):
        request = budgets_pb2.PutBudgetRequest(scope="user", subject=str(new_id()), period="day", cap_micros=number, enabled=True)
        made.append((await servicer.PutBudget(request, None)).budget.id)
    request.cap_micros = 77
    rig.clock.advance(1)
    again = await servicer.PutBudget(request, None)
    assert (again.created, again.budget.id, again.budget.cap_micros) == (False, made[2], 77)
    first = await servicer.ListBudgets(budgets_pb2.ListBudgetsRequest(page_size=2), None)
    second = await servicer.ListBudgets(budgets_pb2.ListBudgetsRequest(page_size=2, page_token=first.next_page_token), None)
    assert [budget.id for budget in [*first.budgets, *second.budgets]] == made
    assert second.next_page_token == ""
    await servicer.DeleteBudget(budgets_pb2.DeleteBudgetRequest(id=made[0]), None)
    assert await refusal(servicer.DeleteBudget(budgets_pb2.DeleteBudgetRequest(id=made[0]), None)) == (
        ErrorKind.NOT_FOUND,
        "budget_not_found",
    )
    assert len(await rig.events("chat.budget.changed")) == 5
    actions = [events_pb2.AuditRecorded.FromString(data).action for data in await rig.events("audit.recorded")]
    assert actions == ["budget.set"] * 4 + ["budget.deleted"]
    act_as(tenant=OTHER_TENANT)
    assert not (await servicer.ListBudgets(budgets_pb2.ListBudgetsRequest(), None)).budgets
    assert (await refusal(servicer.DeleteBudget(budgets_pb2.DeleteBudgetRequest(id=made[1]), None)))[0] is ErrorKind.NOT_FOUND


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"scope": "planet"}, "scope_unknown"),
        ({"period": "hour"}, "period_unknown"),
        ({"subject": "me"}, "budget_subject_invalid"),
        ({"scope": "tenant", "subject": str(USER)}, "budget_subject_invalid"),
        ({"cap_micros": -1}, "budget_out_of_range"),
        ({"cap_micros": 10**15 + 1}, "budget_out_of_range"),
    ],
)
async def test_bad_budgets_are_refused(rig: LedgerRig, servicer: BudgetServicer, changes: dict[str, Any], code: str) -> None:
    act_as()
    values = {"scope": "user", "subject": "*", "period": "day", "cap_micros": 5, **changes}
    assert await refusal(servicer.PutBudget(budgets_pb2.PutBudgetRequest(**values), None)) == (ErrorKind.INVALID, code)
    assert await rig.rows("SELECT 1 FROM budgets") == []


async def test_permissions_are_asked_for(rig: LedgerRig, servicer: BudgetServicer) -> None:
    del rig
    act_as(permissions=frozenset({"usage:read:own"}))
    for call in (
        servicer.PutBudget(budgets_pb2.PutBudgetRequest(), None),
        servicer.ListBudgets(budgets_pb2.ListBudgetsRequest(), None),
        servicer.DeleteBudget(budgets_pb2.DeleteBudgetRequest(), None),
        servicer.QueryUsage(budgets_pb2.QueryUsageRequest(reach="tenant"), None),
    ):
        assert await refusal(call) == (ErrorKind.FORBIDDEN, "permission_missing")
    act_as(permissions=frozenset())
    for other in (
        servicer.GetSpending(budgets_pb2.GetSpendingRequest(), None),
        servicer.QueryUsage(budgets_pb2.QueryUsageRequest(), None),
        servicer.GetGeneration(budgets_pb2.GetGenerationRequest(), None),
    ):
        assert await refusal(other) == (ErrorKind.FORBIDDEN, "permission_missing")


async def test_spending_shows_what_binds_the_caller(rig: LedgerRig, servicer: BudgetServicer) -> None:
    await rig.budget(1000)
    act_as(key=KEY)
    running, ended = rig.generation(key=KEY), rig.generation()
    await rig.ledger.reserve(running, 30)
    await rig.ledger.settle(ended, rig.settlement(100))
    [entry] = (await servicer.GetSpending(budgets_pb2.GetSpendingRequest(), None)).spending
    assert (entry.spent_micros, entry.reserved_micros, entry.remaining_micros, entry.period_start) == (100, 30, 870, "2026-03-01")
    act_as(tenant=OTHER_TENANT)
    assert not (await servicer.GetSpending(budgets_pb2.GetSpendingRequest(), None)).spending


async def test_usage_is_summed_by_each_group_paged_and_kept_to_its_reach(rig: LedgerRig, servicer: BudgetServicer) -> None:
    await rig.ledger.settle(rig.generation(key=KEY), rig.settlement(100, 40))
    await rig.ledger.settle(rig.generation(user=OTHER), rig.settlement(7))
    rig.clock.advance(-86400)
    await rig.ledger.settle(rig.generation(), rig.settlement(status="failed"))
    rig.clock.advance(86400)
    await rig.ledger.settle(rig.generation(tenant=OTHER_TENANT), rig.settlement(9999))
    act_as()

    async def groups(group: str, **changes: Any) -> dict[str, int]:
        found, token = {}, ""
        while True:
            request = budgets_pb2.QueryUsageRequest(group_by=group, page_size=1, page_token=token, **changes)
            page = await servicer.QueryUsage(request, None)
            found.update({row.group: row.micros for row in page.rows})
            assert page.total.micros == sum(found.values()) or page.next_page_token
            if not (token := page.next_page_token):
                return found

    assert await groups("day") == {"2026-03-30": 0, "2026-03-31": 147}
    assert await groups("day", from_day="2026-03-31", to_day="2026-03-31") == {"2026-03-31": 147}
    assert await groups("provider") == {"alpha": 107, "beta": 40, "wireroom": 0}
    assert await groups("model") == {"alpha/m": 107, "beta/m": 40, "wireroom/gpt-x": 0}
    assert await groups("user") == {str(USER): 140, str(OTHER): 7}
    assert await groups("key") == {"": 7, str(KEY): 140}
    act_as(OTHER, permissions=frozenset({"usage:read:own"}))
    assert await groups("user") == {str(OTHER): 7}
    assert await exported(servicer, group_by="user") == [
        ["user", "requests", "failed", "attempts", "tokens_in", "tokens_out", "micros"],
        [str(OTHER), "1", "0", "1", "10", "5", "7"],
    ]
    act_as()
    calls = await exported(servicer, group_by="call")
    assert [row[calls[0].index("micros")] for row in calls[1:]] in (["100", "40", "7"], ["7", "100", "40"])
    assert {row[0] for row in calls[1:]} == {"2026-03-31T12:00:00+00:00"}


@pytest.mark.parametrize(
    ("request_values", "code"),
    [
        ({"from_day": "yesterday"}, "day_invalid"),
        ({"from_day": "2026-04-02", "to_day": "2026-04-01"}, "period_invalid"),
        ({"from_day": "2020-01-01", "to_day": "2026-04-01"}, "period_invalid"),
        ({"group_by": "moon"}, "group_unknown"),
        ({"group_by": "call"}, "group_unknown"),
        ({"reach": "world"}, "reach_unknown"),
        ({"page_size": 201}, "page_size_invalid"),
        ({"page_token": "x"}, "page_token_invalid"),
    ],
)
async def test_bad_questions_are_refused(servicer: BudgetServicer, request_values: dict[str, Any], code: str) -> None:
    act_as()
    assert await refusal(servicer.QueryUsage(budgets_pb2.QueryUsageRequest(**request_values), None)) == (ErrorKind.INVALID, code)


async def test_generation_is_shown_to_its_owner_and_to_readers_of_the_tenant(rig: LedgerRig, servicer: BudgetServicer) -> None:
    generation = rig.generation(key=KEY)
    await rig.ledger.start(generation)
    act_as(permissions=frozenset({"usage:read:own"}))
    asked = budgets_pb2.GetGenerationRequest(id=generation.completion_id)
    running = await servicer.GetGeneration(asked, None)
    assert (running.status, running.HasField("finished_at"), len(running.attempts)) == ("running", False, 0)
    await rig.ledger.settle(generation, rig.settlement(100, 40))
    shown = await servicer.GetGeneration(asked, None)
    assert (shown.status, list(shown.path), shown.micros, shown.answer_mode, shown.key_id) == (
        "completed",
        ["alpha/m", "beta/m"],
        140,
        "generated",
        str(KEY),
    )
    assert [(call.number, call.micros, call.reported) for call in shown.attempts] == [(1, 100, True), (2, 40, False)]
    act_as(OTHER)
    assert (await servicer.GetGeneration(asked, None)).micros == 140
    for stranger in ({"permissions": frozenset({"usage:read:own"})}, {"tenant": OTHER_TENANT}):
        act_as(OTHER, **stranger)  # type: ignore[arg-type]
        assert await refusal(servicer.GetGeneration(asked, None)) == (ErrorKind.NOT_FOUND, "generation_not_found")
    for nothing in ("", "chatcmpl-", "chatcmpl-x", "a-b-c", str(new_id())):
        request = budgets_pb2.GetGenerationRequest(id=nothing)
        assert (await refusal(servicer.GetGeneration(request, None)))[0] is ErrorKind.NOT_FOUND


async def test_export_of_many_calls_is_whole_and_in_order(
    rig: LedgerRig, servicer: BudgetServicer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wireroom_chat.adapters.usage_sql._BATCH", 2)
    for _ in range(3):
        await rig.ledger.settle(rig.generation(), rig.settlement(1, 2))
        rig.clock.advance(1)
    act_as()
    rows = await exported(servicer, group_by="call")
    assert len({tuple(row[:3]) for row in rows[1:]}) == 6
    assert [row[0] for row in rows[1:]] == sorted(row[0] for row in rows[1:])
    assert len(await exported(servicer, group_by="provider")) == 3


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "  =cmd|' /C calc'!A0"])
def test_no_text_of_a_csv_is_a_formula(text: str) -> None:
    [[cell, number]] = list(csv.reader(io.StringIO(csv_lines([[text, -5]]).decode(), newline="")))
    assert (cell, number) == (f"'{text}", "-5")


@given(st.lists(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\x00")), min_size=1), min_size=1))
def test_csv_gives_back_what_it_was_given(rows: list[list[str]]) -> None:
    read = list(csv.reader(io.StringIO(csv_lines(rows).decode(), newline="")))
    assert [[cell.removeprefix("'") for cell in row] for row in read] == [
        # A line of one empty cell is written as quotes, and any cell may have begun with a quote itself.
        [cell.removeprefix("'") for cell in row]
        for row in rows
    ]


async def partitions(rig: LedgerRig, log: str) -> list[str]:
    rows = await rig.rows(
        "SELECT c.relname, c.relrowsecurity AND c.relforcerowsecurity AS forced FROM pg_inherits i"  # noqa: S608 - names of ours
        " JOIN pg_class c ON c.oid = i.inhrelid"
        f" WHERE i.inhparent = to_regclass('chat.{log}') ORDER BY 1"
    )
    assert all(row.forced for row in rows)
    return [row.relname for row in rows]


@pytest.mark.parametrize("log", ["generations", "usage"])
async def test_partitions_are_made_ahead_filled_and_dropped_by_age(rig: LedgerRig, log: str) -> None:
    upkeep = LedgerUpkeep(rig.database, rig.clock, months_kept=2, days_kept=0)
    # In the default partition, as no partition of that month is there yet.
    await rig.ledger.settle(rig.generation(), rig.settlement(5))
    await upkeep.run()
    names = await partitions(rig, log)
    assert {f"{log}_2026_03", f"{log}_2026_04", f"{log}_2026_05", f"{log}_default"} <= set(names)
    [usage] = await rig.rows("SELECT CAST(tableoid AS regclass) AS place, micros FROM usage")
    assert (usage.place.removeprefix("chat."), usage.micros) == ("usage_2026_03", 5)
    assert len(await rig.rows("SELECT 1 FROM generations")) == 1
    await upkeep.run()
    assert await partitions(rig, log) == names

    rig.clock.advance(61 * 86400)
    await upkeep.run()
    assert f"{log}_2026_03" in await partitions(rig, log)
    rig.clock.advance(29 * 86400)
    await upkeep.run()
    left = await partitions(rig, log)
    assert f"{log}_2026_03" not in left
    assert {f"{log}_2026_04", f"{log}_2026_06", f"{log}_default"} <= set(left)
    if log == "usage":
        assert await rig.rows("SELECT 1 FROM usage") == []
        # The sums stay.
        assert [row.micros for row in await rig.rows("SELECT micros FROM usage_daily")] == [5]


async def test_nobody_but_the_owner_reaches_a_partition(rig: LedgerRig) -> None:
    await rig.ledger.settle(rig.generation(), rig.settlement(5))
    granted = await rig.rows(
        "SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid JOIN pg_namespace n ON n.oid = c.relnamespace"
        " WHERE n.nspname = 'chat' AND (has_table_privilege('chat_app', c.oid, 'SELECT, INSERT, UPDATE, DELETE')"
        " OR has_table_privilege('chat_system', c.oid, 'SELECT, INSERT, UPDATE, DELETE')) AND c.relkind = 'r'"
    )
    assert granted == []


async def test_old_sums_and_periods_go_after_their_retention(rig: LedgerRig) -> None:
    month = await rig.budget(1000)
    await rig.ledger.settle(rig.generation(), rig.settlement(5))
    rig.clock.advance(100 * 86400)
    await rig.ledger.settle(rig.generation(), rig.settlement(6))
    await LedgerUpkeep(rig.database, rig.clock, months_kept=120, days_kept=90).run()
    assert [row.micros for row in await rig.rows("SELECT micros FROM usage_daily")] == [6]
    assert await rig.period(month) == (6, 0)


async def take(rig: LedgerRig, payload: Any, tenant: UUID | None = TENANT) -> None:
    envelope = Envelope(
        id=new_id(),
        source="auth",
        type=event_type(payload),
        time=rig.clock.now(),
        subject=str(KEY),
        data=payload.SerializeToString(),
        tenant_id=tenant,
    )
    events = BudgetEvents(rig.database, rig.ledger.unbound, rig.clock)
    async with rig.database.tenant(TENANT) as connection:
        await events.take(connection, envelope)


def changed(version: int, day: int, month: int = 0) -> events_pb2.AuthApiKeyChanged:
    return events_pb2.AuthApiKeyChanged(
        key_id=str(KEY), owner_id=str(USER), change="updated", version=version, budget_day_micros=day, budget_month_micros=month
    )


async def test_budgets_of_api_keys_bind_in_whatever_order_they_are_heard_of(rig: LedgerRig, servicer: BudgetServicer) -> None:
    await take(rig, changed(3, 50, 80))
    await take(rig, changed(2, 900))
    await take(rig, events_pb2.AuthApiKeyCreated(key_id=str(KEY), version=1, budget_day_micros=999))
    with pytest.raises(WireroomError, match="insufficient_quota") as caught:
        await rig.ledger.reserve(rig.generation(key=KEY), 51)
    assert "this API key" in caught.value.detail
    assert await rig.ledger.reserve(rig.generation(key=KEY), 50) == 0
    # Somebody else's key, and the same user without one, are free.
    assert await rig.ledger.reserve(rig.generation(), 10**6) > 10**6
    act_as(key=KEY)
    entries = (await servicer.GetSpending(budgets_pb2.GetSpendingRequest(), None)).spending
    assert sorted((entry.budget.source, entry.budget.cap_micros) for entry in entries) == [("auth", 50), ("auth", 80)]
    own = budgets_pb2.DeleteBudgetRequest(id=entries[0].budget.id)
    assert await refusal(servicer.DeleteBudget(own, None)) == (ErrorKind.CONFLICT, "budget_of_api_key")

    await take(rig, changed(4, 0))
    await take(rig, changed(3, 50, 80))
    assert not (await servicer.GetSpending(budgets_pb2.GetSpendingRequest(), None)).spending
    await take(rig, changed(5, 70))
    await take(rig, events_pb2.AuthApiKeyRevoked(key_id=str(KEY)))
    assert await rig.rows("SELECT 1 FROM budgets") == []


async def test_an_event_of_yesterday_says_nothing_of_budgets(rig: LedgerRig) -> None:
    await take(rig, changed(2, 50))
    await take(rig, changed(0, 0))
    assert [row.cap for row in await rig.rows("SELECT cap FROM budgets WHERE enabled")] == [50]


async def test_the_owner_of_a_key_cannot_get_round_the_default(rig: LedgerRig) -> None:
    from wireroom_chat.domain.budgets import Period, Scope  # noqa: PLC0415 - of this test alone

    await rig.budget(10, Scope.KEY, "*", Period.DAY)
    await take(rig, changed(1, 10**9))
    with pytest.raises(WireroomError, match="insufficient_quota"):
        await rig.ledger.reserve(rig.generation(key=KEY), 11)


async def test_change_of_a_budget_ends_what_is_remembered(rig: LedgerRig) -> None:
    events = BudgetEvents(rig.database, rig.ledger.unbound, rig.clock)
    [work, broadcast] = events.subscriptions()
    assert (work.consumer, broadcast.types) == (CONSUMER, frozenset({"chat.budget.changed"}))
    await rig.ledger.reserve(rig.generation(), 1)
    assert not rig.ledger.binds(rig.generation())
    await rig.budget(5)
    payload = events_pb2.ChatBudgetChanged.FromString((await rig.events("chat.budget.changed"))[0])
    assert broadcast.broadcast is not None
    await broadcast.broadcast(
        Envelope(new_id(), "chat", "chat.budget.changed", NOON + timedelta(), "x", payload.SerializeToString(), tenant_id=TENANT)
    )
    assert rig.ledger.binds(rig.generation())
