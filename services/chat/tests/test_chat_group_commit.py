"""Writes that share a transaction: nobody waits for others longer than for one of them, and nobody fails with another."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from uuid import UUID

import pytest
from ledger_rig import KEY, OTHER_TENANT, TENANT, LedgerRig

from wireroom_chat.adapters.group_commit import GroupCommit
from wireroom_chat.domain.budgets import Period, Scope
from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_common.ids import new_id
from wireroom_common.testing.plugin import MigratedDatabase
from wireroom_protos.events.v1 import events_pb2

BAD = "bad"


class Store:
    """What is written, in groups. The first group waits for `go`."""

    def __init__(self) -> None:
        self.groups: list[tuple[UUID, list[str]]] = []
        self.begun = asyncio.Event()
        self.go = asyncio.Event()
        self.away = False

    async def write(self, tenant_id: UUID, items: Sequence[str]) -> None:
        self.begun.set()
        await self.go.wait()
        if self.away:
            raise WireroomError(ErrorKind.UNAVAILABLE, "database_unavailable", "Away.")
        if BAD in items:
            raise ValueError(BAD)
        self.groups.append((tenant_id, list(items)))


async def started(store: Store, commit: GroupCommit[str]) -> asyncio.Task[None]:
    """A first write that is under way."""
    first = asyncio.create_task(commit.add(TENANT, new_id(), "first"))
    await store.begun.wait()
    return first


async def test_what_waits_at_the_same_moment_is_written_together() -> None:
    store = Store()
    commit = GroupCommit(store.write)
    first = await started(store, commit)
    others = [asyncio.create_task(commit.add(TENANT, new_id(), str(number))) for number in range(70)]
    elsewhere = asyncio.create_task(commit.add(OTHER_TENANT, new_id(), "elsewhere"))
    await asyncio.sleep(0)
    assert not first.done()
    store.go.set()
    await asyncio.gather(first, elsewhere, *others)
    ours = [items for tenant, items in store.groups if tenant == TENANT]
    assert ours == [["first"], [str(number) for number in range(64)], [str(number) for number in range(64, 70)]]
    assert (OTHER_TENANT, ["elsewhere"]) in store.groups


async def test_one_that_cannot_be_written_fails_alone() -> None:
    store = Store()
    commit = GroupCommit(store.write)
    first = await started(store, commit)
    others = [asyncio.create_task(commit.add(TENANT, new_id(), item)) for item in ("a", BAD, "b")]
    store.go.set()
    done = await asyncio.gather(first, *others, return_exceptions=True)
    assert [type(result) for result in done] == [type(None), type(None), ValueError, type(None)]
    assert [item for _, items in store.groups for item in items] == ["first", "a", "b"]


async def test_of_one_key_only_one_is_in_a_group() -> None:
    store = Store()
    commit = GroupCommit(store.write)
    first = await started(store, commit)
    key = new_id()
    twice = [asyncio.create_task(commit.add(TENANT, key, item)) for item in ("once", "again")]
    store.go.set()
    await asyncio.gather(first, *twice)
    assert [items for _, items in store.groups] == [["first"], ["once"], ["again"]]


async def test_what_a_caller_gave_up_is_written_all_the_same() -> None:
    store = Store()
    commit = GroupCommit(store.write)
    first = await started(store, commit)
    given_up = asyncio.create_task(commit.add(TENANT, new_id(), "given up"))
    await asyncio.sleep(0)
    given_up.cancel()
    last = asyncio.create_task(commit.add(TENANT, new_id(), "last"))
    store.go.set()
    await asyncio.gather(first, last)
    assert given_up.cancelled()
    assert store.groups[-1] == (TENANT, ["given up", "last"])


async def test_a_database_that_is_away_is_asked_once_and_everybody_is_told() -> None:
    store = Store()
    commit = GroupCommit(store.write)
    store.away = True
    first = await started(store, commit)
    others = [asyncio.create_task(commit.add(TENANT, new_id(), "other")) for _ in range(3)]
    store.go.set()
    failed = await asyncio.gather(first, *others, return_exceptions=True)
    assert [error.code for error in failed if isinstance(error, WireroomError)] == ["database_unavailable"] * 4
    store.away = False
    await commit.add(TENANT, new_id(), "later")
    assert store.groups == [(TENANT, ["later"])]


@pytest.fixture
async def rig(migrated_database: MigratedDatabase) -> LedgerRig:
    return LedgerRig(await migrated_database("chat"), datetime(2026, 3, 31, 12, tzinfo=UTC))


async def test_settlements_of_many_payers_at_once_are_booked_each(rig: LedgerRig) -> None:
    users = [new_id() for _ in range(3)]
    tenant_wide = await rig.budget(100_000)
    each_user = await rig.budget(10_000, Scope.USER, "*", Period.DAY)
    one_key = await rig.budget(10_000, Scope.KEY, str(KEY), Period.TOTAL)
    generations = [rig.generation(user=users[number % 3], key=KEY if number % 2 else None) for number in range(30)]
    await asyncio.gather(*(rig.ledger.start(item) for item in generations))
    for item in generations[:10]:
        await rig.ledger.reserve(item, 50)
    await asyncio.gather(*(rig.ledger.settle(item, rig.settlement(number, 2)) for number, item in enumerate(generations)))

    spent = [number + 2 for number in range(30)]
    assert await rig.period(tenant_wide) == (sum(spent), 0)
    assert await rig.period(one_key) == (sum(spent[1::2]), 0)
    rows = await rig.rows(f"SELECT subject, spent, reserved FROM budget_periods WHERE budget_id = '{each_user}'")  # noqa: S608
    assert {row.subject: (row.spent, row.reserved) for row in rows} == {
        str(user): (sum(spent[place::3]), 0) for place, user in enumerate(users)
    }
    daily = await rig.rows(
        "SELECT user_id, key_id, sum(requests) AS requests, sum(micros) AS micros FROM usage_daily GROUP BY 1, 2"
    )
    assert {(row.user_id, row.key_id == KEY): (row.requests, row.micros) for row in daily} == {
        (user, keyed): (5, sum(spent[number] for number in range(30) if number % 3 == place and number % 2 == keyed))
        for place, user in enumerate(users)
        for keyed in (False, True)
    }
    assert await rig.rows("SELECT 1 FROM reservations") == []
    assert len(await rig.rows("SELECT 1 FROM usage")) == 60
    told = [events_pb2.ChatCompletionCompleted.FromString(data) for data in await rig.events("chat.completion.completed")]
    assert {event.completion_id: event.usage.micros for event in told} == {
        item.completion_id: micros for item, micros in zip(generations, spent, strict=True)
    }


async def test_thresholds_that_a_group_passes_are_told_once_each(rig: LedgerRig) -> None:
    await rig.budget(1000)
    await asyncio.gather(*(rig.ledger.settle(rig.generation(), rig.settlement(100)) for _ in range(9)))
    told = [events_pb2.ChatBudgetThreshold.FromString(data) for data in await rig.events("chat.budget.threshold")]
    assert len({event.percent for event in told}) == len(told)
    [row] = await rig.rows("SELECT spent, notified FROM budget_periods")
    assert row.spent == 900
    assert row.notified == max(event.percent for event in told)


async def test_a_row_that_the_database_refuses_holds_up_no_other(rig: LedgerRig) -> None:
    good = [rig.generation() for _ in range(4)]
    bad = rig.generation()
    refused = rig.settlement(1, error_code="\0")
    work = [rig.ledger.settle(item, rig.settlement(5)) for item in good[:2]]
    work += [rig.ledger.settle(bad, refused), *(rig.ledger.settle(item, rig.settlement(5)) for item in good[2:])]
    results = await asyncio.gather(*work, return_exceptions=True)
    assert [getattr(result, "code", "") for result in results] == ["", "", "text_contains_nul", "", ""]
    assert {row.id for row in await rig.rows("SELECT id FROM generations")} == {item.id for item in good}
