"""Lists of articles that are kept: the same answer without the database, and never one from before a change."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any
from uuid import uuid4

import pytest
import redis.asyncio
from google.protobuf.message import Message
from prometheus_client import CollectorRegistry
from sqlalchemy import event

from wireroom_common.bus import Catalogue, Envelope, event_type
from wireroom_common.bus.delivery import BusMetrics, Deliverer
from wireroom_common.cache.statistics import MEMORY, REDIS
from wireroom_common.clock import SystemClock
from wireroom_common.ids import new_id
from wireroom_common.testing.polling import eventually
from wireroom_protos.events.v1 import events_pb2


class Pair:
    """Two replicas with one database and one Valkey."""

    def __init__(self, one: Any, two: Any) -> None:
        self.one, self.two = one, two
        self.reads = 0
        engine = one.database._app.sync_engine  # noqa: SLF001 - counts what reaches the database

        @event.listens_for(engine, "before_cursor_execute")
        def count(_connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
            self.reads += "FROM articles a" in statement and "ORDER BY" in statement


@pytest.fixture
async def pair(start_news: Any, clean_valkey_url: str) -> AsyncIterator[Pair]:
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(redis.asyncio.Redis.from_url(clean_valkey_url)) for _ in range(2)]
        yield Pair(*[await start_news(redis_client=client) for client in clients])


async def test_the_same_list_is_read_once_on_all_replicas(pair: Pair, feed_server: Any, rss: Any) -> None:
    feed_server.put("/feed", rss(("1", "Dam holds", "The dam holds."), ("2", "Bridge opens", "The bridge is open.")))
    await pair.one.add(feed_server.url("/feed"))
    first = await pair.one.listed(query="dam")
    assert [article.title for article in first] == ["Dam holds"]
    assert await pair.two.listed(query="dam") == first
    assert await pair.one.listed(query="dam") == first
    assert pair.reads == 1
    assert len(await pair.one.listed()) == 2
    assert len(await pair.one.listed(page_size=1)) == 1
    assert len(await pair.two.listed(query="nothing")) == 0
    assert len(await pair.one.listed(query="nothing")) == 0
    assert pair.reads == 4


async def test_changes_are_in_the_next_list_on_every_replica(pair: Pair, feed_server: Any, rss: Any) -> None:
    feed_server.put("/feed", rss(("1", "Dam holds", "The dam holds.")))
    added = await pair.one.add(feed_server.url("/feed"))
    for replica in (pair.one, pair.two):
        assert len(await replica.listed()) == 1
    feed_server.put("/feed", rss(("1", "Dam breaks", "It broke."), ("2", "Bridge opens", "The bridge is open.")))
    await pair.one.refresh(added.feed.id)
    for replica in (pair.two, pair.one):
        assert {article.title for article in await replica.listed()} == {"Dam breaks", "Bridge opens"}
    reads = pair.reads
    # Nothing new: what is kept stays.
    await pair.one.refresh(added.feed.id)
    await pair.two.listed()
    assert pair.reads == reads
    await pair.two.remove(added.feed.id)
    assert await pair.one.listed() == []


async def test_the_next_process_has_the_lists_that_were_wanted_most(pair: Pair, feed_server: Any, rss: Any) -> None:
    feed_server.put("/feed", rss(("1", "Dam holds", "The dam holds.")))
    added = await pair.one.add(feed_server.url("/feed"))
    listed = [await pair.one.listed() for _ in range(2)]
    await pair.one.caches.stop()
    pair.two.caches.start()
    try:
        await eventually(lambda: pair.two.caches.snapshot()[0].warmed == 1)
        assert [await pair.two.listed()] == listed[:1]
        (kept,) = pair.two.caches.snapshot()
        assert (kept.tiers[MEMORY].hits, kept.tiers[REDIS].hits, pair.reads) == (1, 0, 1)
        # What was warmed is asked for its version, too.
        feed_server.put("/feed", rss(("1", "Dam breaks", "It broke.")))
        await pair.one.refresh(added.feed.id)
        assert {article.title for article in await pair.two.listed()} == {"Dam breaks"}
    finally:
        await pair.two.caches.stop()


async def test_tenants_do_not_share_lists(pair: Pair, feed_server: Any, rss: Any, act_as: Any, principal_of: Any) -> None:
    feed_server.put("/feed", rss(("1", "Dam holds", "The dam holds.")))
    await pair.one.add(feed_server.url("/feed"))
    assert len(await pair.one.listed()) == 1
    act_as(principal_of(uuid4()))
    assert await pair.one.listed() == []
    assert await pair.two.listed() == []


@pytest.mark.parametrize(
    ("happened", "ends"),
    [
        (events_pb2.NewsFeedFetched(feed_id="x", new_articles=1), True),
        (events_pb2.NewsFeedFetched(feed_id="x", merged_articles=1), True),
        (events_pb2.NewsFeedFetched(feed_id="x", not_modified=True), False),
        (events_pb2.NewsFeedRemoved(feed_id="x"), True),
    ],
    ids=["new", "merged", "not modified", "removed"],
)
async def test_events_end_lists_that_their_own_process_could_not_end(pair: Pair, happened: Message, ends: bool) -> None:  # noqa: FBT001 - a parameter
    await pair.one.listed()
    (subscription,) = (each for each in pair.two.service.subscriptions if each.consumer == "news.lists")
    catalogue = Catalogue.from_files(events_pb2.DESCRIPTOR)
    envelope = Envelope(
        id=new_id(),
        source="news",
        type=event_type(happened),
        time=SystemClock().now(),
        subject="",
        data=happened.SerializeToString(),
        tenant_id=pair.one.tenant_id,
    )
    assert "news.lists" in catalogue.events[envelope.type].consumers
    await Deliverer(catalogue, BusMetrics(CollectorRegistry()), SystemClock()).work(subscription, envelope)
    await pair.one.listed()
    assert pair.reads == 1 + ends
