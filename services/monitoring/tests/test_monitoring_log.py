from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, cast
from uuid import UUID, uuid4

import psycopg
import pytest
from google.protobuf.message import DecodeError
from prometheus_client import CollectorRegistry
from sqlalchemy import text
from sqlalchemy.exc import ProgrammingError

from wireroom_common.bus import Catalogue, Envelope
from wireroom_common.bus.catalogue import EventSpec
from wireroom_common.bus.delivery import BusMetrics, Deliverer
from wireroom_common.bus.local import LocalBus
from wireroom_common.clock import SystemClock
from wireroom_common.db import Database, DatabaseUrl
from wireroom_common.db.migrate import downgrade, require_current, upgrade
from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_common.inbox import purge_inbox
from wireroom_common.runtime.service import Infra
from wireroom_common.testing import eventually
from wireroom_monitoring.app import build
from wireroom_monitoring.event_log import Entry, read_after
from wireroom_monitoring.settings import MonitoringSettings
from wireroom_protos.events.v1 import events_pb2 as events
from wireroom_protos.monitoring.v1 import monitoring_pb2

ALPHA = UUID("0190a000-0000-7000-8000-00000000000a")
BETA = UUID("0190a000-0000-7000-8000-00000000000b")


async def test_a_delivered_event_is_read_back_with_its_payload_as_json(monitoring: Any) -> None:
    occurred = datetime(2026, 2, 3, 4, 5, 6, 789000, tzinfo=UTC)
    sent = monitoring.event(
        events.NewsFeedFetched(feed_id="f1", status=200, new_articles=3, bytes=12),
        time=occurred,
        source="wireroom/news",
        subject="f1",
    )
    await monitoring.deliver(sent)

    page = await monitoring.read(ALPHA)

    assert page.next_offset == 1
    (logged,) = page.events
    assert (logged.offset, logged.id, logged.type) == (1, str(sent.id), "news.feed.fetched")
    assert (logged.source, logged.subject) == ("wireroom/news", "f1")
    assert logged.time.ToDatetime(tzinfo=UTC) == occurred
    assert json.loads(logged.data_json) == {"feed_id": "f1", "status": 200, "new_articles": 3, "bytes": "12"}


async def test_every_type_of_the_catalogue_can_be_logged_and_read(monitoring: Any, catalogue: Catalogue) -> None:
    for spec in catalogue.events.values():
        await monitoring.deliver(monitoring.event(spec.payload()))
    page = await monitoring.read(ALPHA, size=500)
    assert sorted(logged.type for logged in page.events) == sorted(catalogue.events)
    assert [logged.offset for logged in page.events] == list(range(1, len(catalogue.events) + 1))


async def test_a_repeated_event_has_one_effect_even_after_the_inbox_was_purged(monitoring: Any) -> None:
    sent = monitoring.event(events.NewsFeedAdded(feed_id="f1"))
    await monitoring.deliver(sent)
    await monitoring.deliver(sent)
    with monitoring.as_owner() as owner:
        owner.execute("UPDATE monitoring.inbox SET seen_at = now() - interval '8 days'")
    await purge_inbox(monitoring.database, timedelta(days=7))
    with monitoring.as_owner() as owner:
        assert owner.execute("SELECT count(*) FROM monitoring.inbox").fetchone() == (0,)
    await asyncio.gather(*(monitoring.deliver(sent) for _ in range(4)))

    assert len((await monitoring.read(ALPHA)).events) == 1
    assert (await monitoring.stats(ALPHA)).feeds_added == 1


async def test_a_reader_with_a_cursor_misses_nothing_while_several_append(monitoring: Any) -> None:
    sent = [monitoring.event(events.NewsFeedRecovered(feed_id=str(n)), ALPHA if n % 2 else BETA) for n in range(240)]
    queue = list(sent)
    seen: list[Entry] = []
    done = asyncio.Event()

    async def append() -> None:
        while queue:
            await monitoring.deliver(queue.pop())

    async def follow() -> None:
        cursor = 0
        while True:
            last_round = done.is_set()
            async with monitoring.database.system() as connection:
                page = await read_after(connection, cursor, limit=7)
            seen.extend(page)
            cursor = page[-1].offset if page else cursor
            if last_round and not page:
                return

    follower = asyncio.create_task(follow())
    await asyncio.gather(*(append() for _ in range(4)))
    done.set()
    await follower

    assert [entry.offset for entry in seen] == list(range(1, len(sent) + 1))
    assert {entry.id for entry in seen} == {envelope.id for envelope in sent}


async def test_a_later_offset_waits_for_the_commit_of_the_earlier_one(monitoring: Any) -> None:
    handler = monitoring.service.subscriptions[0].work
    assert handler is not None
    early, late = monitoring.event(events.NewsFeedAdded(feed_id="early")), monitoring.event(events.NewsFeedAdded(feed_id="late"))
    async with monitoring.database.system() as connection:
        await handler(connection, early)
        second = asyncio.create_task(monitoring.deliver(late))

        async def second_waits() -> bool:
            async with monitoring.database.system() as other:
                waiting = await other.scalar(text("SELECT count(*) FROM pg_locks WHERE NOT granted"))
            return bool(waiting)

        await eventually(second_waits)
        assert list((await monitoring.read(ALPHA)).events) == []
    await second

    page = await monitoring.read(ALPHA)
    assert [(logged.offset, json.loads(logged.data_json)["feed_id"]) for logged in page.events] == [(1, "early"), (2, "late")]


async def test_a_failed_append_leaves_nothing_behind(monitoring: Any) -> None:
    handler = monitoring.service.subscriptions[0].work
    assert handler is not None
    sent = monitoring.event(events.NewsFeedAdded())

    async def append_and_fail() -> None:
        async with monitoring.database.system() as connection:
            await handler(connection, sent)
            raise ConnectionError

    with pytest.raises(ConnectionError):
        await append_and_fail()
    assert (await monitoring.stats(ALPHA)).offset == 0
    await monitoring.deliver(sent)
    assert [logged.offset for logged in (await monitoring.read(ALPHA)).events] == [1]


async def test_pages_follow_the_cursor_and_filter_by_type(monitoring: Any) -> None:
    for number in range(5):
        await monitoring.deliver(monitoring.event(events.NewsFeedAdded(feed_id=str(number))))
        await monitoring.deliver(monitoring.event(events.NewsFeedRemoved(feed_id=str(number))))

    first = await monitoring.read(ALPHA, size=3, kind="news.feed.added")
    rest = await monitoring.read(ALPHA, after=first.next_offset, size=3, kind="news.feed.added")
    end = await monitoring.read(ALPHA, after=rest.next_offset, kind="news.feed.added")

    assert [logged.offset for logged in [*first.events, *rest.events]] == [1, 3, 5, 7, 9]
    assert list(end.events) == []
    assert end.next_offset == rest.next_offset == 9


async def test_a_page_of_large_events_ends_before_it_outgrows_a_message(monitoring: Any) -> None:
    for number in range(5):
        await monitoring.deliver(monitoring.event(events.NewsFeedAdded(feed_id=str(number), url="u" * 900_000)))
    seen = []
    cursor = 0
    while True:
        page: monitoring_pb2.ReadEventsResponse = await monitoring.read(ALPHA, after=cursor)
        assert page.ByteSize() < 4 * 1024 * 1024
        if not page.events:
            break
        seen += [logged.offset for logged in page.events]
        cursor = page.next_offset
    assert seen == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("after", "size", "kind", "code"),
    [
        (-1, 0, "", "offset_negative"),
        (0, -1, "", "page_size_out_of_range"),
        (0, 501, "", "page_size_out_of_range"),
        (0, 0, "no.such.type", "event_type_unknown"),
    ],
)
async def test_a_bad_cursor_is_refused_with_a_reason(monitoring: Any, after: int, size: int, kind: str, code: str) -> None:
    with pytest.raises(WireroomError) as caught:
        await monitoring.read(ALPHA, after=after, size=size, kind=kind)
    assert (caught.value.kind, caught.value.code) == (ErrorKind.INVALID, code)


async def test_without_the_permission_both_rpcs_are_forbidden(monitoring: Any) -> None:
    for method, request in (
        ("MetricsService/GetStats", monitoring_pb2.GetStatsRequest()),
        ("EventLogService/ReadEvents", monitoring_pb2.ReadEventsRequest()),
    ):
        with monitoring.acting(ALPHA, "platform_admin", permissions=()), pytest.raises(WireroomError) as caught:
            await monitoring.methods.call(method, request)
        assert caught.value.kind is ErrorKind.FORBIDDEN
        with monitoring.acting(None), pytest.raises(WireroomError) as caught:
            await monitoring.methods.call(method, request)
        assert caught.value.code == "tenant_required"


async def test_a_tenant_sees_its_own_events_and_an_operator_the_envelopes_of_all(monitoring: Any) -> None:
    await monitoring.deliver(monitoring.event(events.NewsFeedAdded(feed_id="of-alpha"), ALPHA))
    await monitoring.deliver(monitoring.event(events.NewsFeedAdded(feed_id="of-beta"), BETA))
    await monitoring.deliver(monitoring.event(events.AuthUserLoginFailed(reason="unknown_user"), None))

    def seen(page: monitoring_pb2.ReadEventsResponse) -> list[tuple[int, bool]]:
        return [(logged.offset, bool(logged.data_json)) for logged in page.events]

    assert seen(await monitoring.read(ALPHA)) == [(1, True)]
    assert seen(await monitoring.read(BETA)) == [(2, True)]
    assert seen(await monitoring.read(ALPHA, "platform_admin")) == [(1, True), (2, False), (3, True)]
    assert seen(await monitoring.read(None, "platform_admin")) == [(1, False), (2, False), (3, True)]


async def test_operators_see_ids_but_not_names_of_other_tenants_subjects(monitoring: Any) -> None:
    some_id = str(uuid4())
    for subject, tenant in ((some_id, BETA), ("a role's name", BETA), ("a role's name", ALPHA)):
        await monitoring.deliver(monitoring.event(events.AuditRecorded(action="role.changed"), tenant, subject=subject))
    page = await monitoring.read(ALPHA, "platform_admin")
    assert [logged.subject for logged in page.events] == [some_id, "", "a role's name"]


async def test_row_level_security_hides_other_tenants_and_forbids_changes(monitoring: Any) -> None:
    await monitoring.deliver(monitoring.event(events.NewsFeedAdded(feed_id="of-beta"), BETA))
    async with monitoring.database.tenant(ALPHA) as connection:
        assert await connection.scalar(text("SELECT count(*) FROM event_log")) == 0
        assert await connection.scalar(text("SELECT count(*) FROM stats")) == 0
    forbidden = [
        ("tenant", "UPDATE event_log SET type = 'x'"),
        ("tenant", "DELETE FROM event_log"),
        ("tenant", "DELETE FROM stats"),
        ("tenant", "INSERT INTO event_ids (event_id) VALUES (gen_random_uuid())"),
        ("tenant", "SELECT last_offset FROM log_head"),
        ("tenant", "SELECT * FROM event_log_default"),
        ("tenant", "SELECT ensure_event_partitions(1)"),
        ("system", "UPDATE event_log SET type = 'x'"),
        ("system", "DELETE FROM event_log"),
        ("system", "DELETE FROM event_ids"),
        ("system", "SELECT * FROM event_log_default"),
        ("system", "CREATE TABLE monitoring.mine (x integer)"),
    ]
    for role, statement in forbidden:
        transaction = monitoring.database.tenant(BETA) if role == "tenant" else monitoring.database.system()
        with pytest.raises(ProgrammingError, match="permission denied"):
            async with transaction as connection:
                await connection.execute(text(statement))
    with monitoring.as_owner() as owner:
        unprotected = owner.execute(
            "SELECT relname FROM pg_class WHERE relnamespace = 'monitoring'::regnamespace AND relkind IN ('r', 'p')"
            " AND relname <> 'alembic_version' AND NOT (relrowsecurity AND relforcerowsecurity)"
        ).fetchall()
    assert unprotected == []


def _months(owner: psycopg.Connection[tuple[object, ...]]) -> list[str]:
    rows = owner.execute(
        "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'monitoring.event_log'::regclass ORDER BY 1"
    ).fetchall()
    return [str(name) for (name,) in rows]


async def test_partitions_are_made_ahead_and_take_over_what_the_default_one_caught(monitoring: Any) -> None:
    await monitoring.deliver(monitoring.event(events.NewsFeedAdded(feed_id="now")))
    with monitoring.as_owner() as owner:
        before = _months(owner)
        assert len(before) == 4
        assert owner.execute("SELECT count(*) FROM ONLY monitoring.event_log_default").fetchone() == (0,)
        # As if nobody had made partitions for a while: this month's rows land in the default partition.
        owner.execute("SELECT set_config('test.month', to_char(now(), 'YYYY_MM'), false)")
        owner.execute(
            "DO $$ BEGIN EXECUTE format('CREATE TEMP TABLE kept AS SELECT * FROM monitoring.event_log');"
            " EXECUTE format('DROP TABLE monitoring.event_log_%s', current_setting('test.month'));"
            " INSERT INTO monitoring.event_log SELECT * FROM kept; END $$"
        )
        assert owner.execute("SELECT count(*) FROM ONLY monitoring.event_log_default").fetchone() == (1,)
    await monitoring.deliver(monitoring.event(events.NewsFeedAdded(feed_id="into the default")))

    await asyncio.gather(*(monitoring.run_periodic("monitoring.partitions") for _ in range(3)))

    with monitoring.as_owner() as owner:
        assert _months(owner) == before
        assert owner.execute("SELECT count(*) FROM ONLY monitoring.event_log_default").fetchone() == (0,)
    assert [logged.offset for logged in (await monitoring.read(ALPHA)).events] == [1, 2]
    with monitoring.as_owner() as owner, pytest.raises(psycopg.errors.RaiseException):
        owner.execute("SELECT monitoring.ensure_event_partitions(13)")


async def test_unknown_types_and_broken_payloads_end_as_dead_letters(monitoring: Any, catalogue: Catalogue) -> None:
    # A newer process publishes a type that this version's service does not know.
    future = EventSpec("future.thing.happened", events.NewsFeedAdded, frozenset({"monitoring.log"}), broadcast=False)
    only_log = {
        name: replace(spec, consumers=frozenset({"monitoring.log"}))
        for name, spec in (*catalogue.events.items(), (future.name, future))
    }
    newer = Catalogue(only_log)
    bus = LocalBus(
        newer,
        Deliverer(newer, BusMetrics(CollectorRegistry()), SystemClock()),
        first_retry=0.01,
        retry_cap=0.02,
    )
    good = monitoring.event(events.NewsFeedAdded(feed_id="good"))
    unknown = monitoring.event(events.NewsFeedAdded(), type="future.thing.happened")
    broken = monitoring.event(events.NewsFeedAdded(), data=b"\xff\xff\xff")
    await bus.start([entry for entry in monitoring.service.subscriptions if entry.consumer == "monitoring.log"])
    try:
        await bus.publish([unknown, broken, good])
        letters = await eventually(lambda: _two(bus), within=20)
    finally:
        await bus.stop()

    assert {letter.envelope.id: letter.attempts for letter in letters} == {unknown.id: 5, broken.id: 5}
    assert any("event_type_unknown" in letter.error for letter in letters)
    assert [logged.id for logged in (await monitoring.read(ALPHA)).events] == [str(good.id)]


async def _two(bus: LocalBus) -> object:
    letters = await bus.dead_letters("monitoring.log")
    return letters if len(letters) == 2 else None


async def test_a_broken_payload_is_refused_by_the_handler(monitoring: Any) -> None:
    broken: Envelope = monitoring.event(events.NewsFeedAdded(), data=b"\xff")
    with pytest.raises(DecodeError):
        await monitoring.deliver(broken)
    assert (await monitoring.stats(ALPHA)).offset == 0


async def test_migration_goes_down_and_up_again(monitoring: Any, fresh_database_url: str) -> None:
    url = DatabaseUrl.parse(fresh_database_url)
    await require_current(monitoring.database)
    downgrade(url, "monitoring")
    with monitoring.as_owner() as owner:
        left = owner.execute(
            "SELECT relname FROM pg_class WHERE relnamespace = 'monitoring'::regnamespace AND relkind IN ('r', 'p', 'S', 'v')"
            " UNION ALL SELECT proname FROM pg_proc WHERE pronamespace = 'monitoring'::regnamespace"
        ).fetchall()
    assert left == [("alembic_version",)]
    with pytest.raises(WireroomError, match="schema_not_current"):
        await require_current(monitoring.database)
    upgrade(url, "monitoring")
    await require_current(monitoring.database)


async def test_the_check_fails_when_the_database_does_not_answer() -> None:
    away = Database(DatabaseUrl.parse("postgresql://127.0.0.1:1/none"), "monitoring")
    infra = SimpleNamespace(database=lambda _: away, registry=CollectorRegistry(), clock=SystemClock())
    service = build(MonitoringSettings(), cast("Infra", infra))
    with pytest.raises(WireroomError) as caught:
        await service.checks["database"]()
    await away.close()
    assert caught.value.kind is ErrorKind.UNAVAILABLE
