from __future__ import annotations

import asyncio
import random
from typing import Any
from uuid import UUID

import pytest
from google.protobuf.json_format import MessageToDict

from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_monitoring.stats import rebuild_projection
from wireroom_protos.events.v1 import events_pb2 as events

ALPHA = UUID("0190a000-0000-7000-8000-00000000000a")
BETA = UUID("0190a000-0000-7000-8000-00000000000b")

PAYLOADS = [
    events.RagDocumentIndexed(kind="document"),
    events.RagDocumentIndexed(kind="article"),
    events.RagDocumentFailed(),
    events.NewsArticleIngested(),
    events.NewsFeedAdded(),
    events.ChatCompletionCompleted(tokens_in=11, tokens_out=3),
    events.AuthUserLoginSucceeded(),
    events.AuthUserLoginFailed(),
]


async def _fill(monitoring: Any) -> None:
    for tenant, times in ((ALPHA, 2), (BETA, 1), (None, 1)):
        for _ in range(times):
            for payload in PAYLOADS:
                await monitoring.deliver(monitoring.event(payload, tenant))


def _table(monitoring: Any) -> list[tuple[object, ...]]:
    with monitoring.as_owner() as owner:
        rows: list[tuple[object, ...]] = owner.execute(
            "SELECT tenant_id, counter, value, last_offset FROM monitoring.stats"
            " WHERE generation = (SELECT generation FROM monitoring.log_head) ORDER BY 1, 2"
        ).fetchall()
    return rows


async def test_stats_are_the_counts_of_the_callers_tenant_and_of_all_for_operators(monitoring: Any) -> None:
    empty = await monitoring.stats(ALPHA)
    assert MessageToDict(empty) == {}

    await _fill(monitoring)

    once = {
        "documents_indexed": 1,
        "documents_failed": 1,
        "articles_ingested": 1,
        "feeds_added": 1,
        "completions": 1,
        "tokens_in": 11,
        "tokens_out": 3,
        "logins_succeeded": 1,
        "logins_failed": 1,
    }
    per_type = {"rag.document.indexed": 2} | dict.fromkeys(
        (
            "rag.document.failed",
            "news.article.ingested",
            "news.feed.added",
            "chat.completion.completed",
            "auth.user.login.succeeded",
            "auth.user.login.failed",
        ),
        1,
    )
    for caller, roles, times, offset in ((ALPHA, (), 2, 16), (BETA, (), 1, 24), (ALPHA, ("platform_admin",), 4, 32)):
        stats = await monitoring.stats(caller, *roles)
        assert {name: getattr(stats, name) for name in once} == {name: value * times for name, value in once.items()}
        assert {entry.type: entry.count for entry in stats.events} == {kind: count * times for kind, count in per_type.items()}
        assert stats.offset == offset
    assert await monitoring.stats(None, "platform_admin") == await monitoring.stats(BETA, "platform_admin")


async def test_a_dropped_projection_is_rebuilt_to_the_same_state(monitoring: Any) -> None:
    await _fill(monitoring)
    before = _table(monitoring)
    assert before
    with monitoring.as_owner() as owner:
        owner.execute("DELETE FROM monitoring.stats")
    assert _table(monitoring) == []

    assert await rebuild_projection(monitoring.database, batch_size=5) == 32

    assert _table(monitoring) == before
    with monitoring.as_owner() as owner:
        assert owner.execute("SELECT generation, building, last_offset FROM monitoring.log_head").fetchone() == (2, None, 32)
        assert owner.execute("SELECT DISTINCT generation FROM monitoring.stats").fetchall() == [(2,)]
    await monitoring.deliver(monitoring.event(events.NewsFeedAdded()))
    assert (await monitoring.stats(ALPHA)).feeds_added == 3


async def test_an_empty_log_rebuilds_to_an_empty_projection(monitoring: Any) -> None:
    assert await rebuild_projection(monitoring.database) == 0
    assert _table(monitoring) == []


async def test_events_appended_during_a_rebuild_are_counted_once(monitoring: Any) -> None:
    await _fill(monitoring)
    queue = [monitoring.event(events.NewsFeedAdded(), BETA) for _ in range(120)]

    async def append() -> None:
        while queue:
            await monitoring.deliver(queue.pop())

    appending = [asyncio.create_task(append()) for _ in range(3)]
    while not all(task.done() for task in appending):
        await rebuild_projection(monitoring.database, batch_size=10)
    await asyncio.gather(*appending)

    live = _table(monitoring)
    assert (await monitoring.stats(BETA)).feeds_added == 121
    await rebuild_projection(monitoring.database)
    assert _table(monitoring) == live


async def test_of_two_rebuilds_at_once_every_one_that_ends_well_leaves_the_right_state(monitoring: Any) -> None:
    await _fill(monitoring)
    before = _table(monitoring)

    outcomes = await asyncio.gather(
        *(rebuild_projection(monitoring.database, batch_size=3) for _ in range(3)), return_exceptions=True
    )

    refused = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
    assert len(refused) < len(outcomes)
    assert all(isinstance(error, WireroomError) and error.kind is ErrorKind.CONFLICT for error in refused)
    assert _table(monitoring) == before
    with monitoring.as_owner() as owner:
        assert owner.execute("SELECT count(DISTINCT generation) FROM monitoring.stats").fetchone() == (1,)


async def test_a_rebuild_that_was_killed_does_not_stand_in_the_way(monitoring: Any) -> None:
    await _fill(monitoring)
    before = _table(monitoring)
    with monitoring.as_owner() as owner:
        owner.execute("UPDATE monitoring.log_head SET building = 2")
        owner.execute("INSERT INTO monitoring.stats VALUES (gen_random_uuid(), 2, 'feeds_added', 99, 5)")
    assert _table(monitoring) == before
    await rebuild_projection(monitoring.database)
    assert _table(monitoring) == before


@pytest.mark.parametrize("seed", range(3))
async def test_the_rebuilt_projection_equals_the_live_one_for_any_history(monitoring: Any, seed: int) -> None:
    rng = random.Random(seed)  # noqa: S311 - test data
    for _ in range(4):
        for _ in range(rng.randrange(20)):
            await monitoring.deliver(monitoring.event(rng.choice(PAYLOADS), rng.choice([ALPHA, BETA, None])))
        live = _table(monitoring)
        await rebuild_projection(monitoring.database, batch_size=rng.randint(1, 7))
        assert _table(monitoring) == live
