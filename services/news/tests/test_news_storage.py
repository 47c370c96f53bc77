"""The schema: its migrations, its walls between tenants, its transactions."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from wireroom_common.clock import ManualClock
from wireroom_common.db import DatabaseUrl
from wireroom_common.db.migrate import bootstrap, downgrade, upgrade
from wireroom_common.errors import ErrorKind
from wireroom_protos.news.v1 import news_pb2

TABLES = ("feeds", "articles", "article_versions", "article_keys", "feed_fetches")


def test_migration_goes_up_down_and_up_again(fresh_database_url: str) -> None:
    url = DatabaseUrl.parse(fresh_database_url)

    def objects() -> list[Any]:
        with psycopg.connect(fresh_database_url) as connection:
            return connection.execute(
                "SELECT relname::text FROM pg_class WHERE relnamespace = 'news'::regnamespace AND relname NOT LIKE 'alembic%'"
                " UNION ALL SELECT proname::text FROM pg_proc WHERE pronamespace = 'news'::regnamespace ORDER BY 1"
            ).fetchall()

    bootstrap(url, ["news"])
    steps: list[Callable[[], None]] = [lambda: upgrade(url, "news"), lambda: downgrade(url, "news"), lambda: upgrade(url, "news")]
    states = []
    for step in steps:
        step()
        states.append(objects())
    assert states[1] == []
    assert states[0] == states[2]
    assert {(table,) for table in TABLES} < set(states[0])


async def test_marker_of_one_tenant_never_shows_in_another(
    start_news: Any, feed_server: Any, rss: Any, act_as: Any, principal_of: Any
) -> None:
    news = await start_news()
    feed_server.put("/f", rss(("a", "MARKER title", "MARKER text"), title="MARKER feed"))
    feed = (await news.add(feed_server.url("/f"))).feed
    other = uuid4()
    async with news.database.tenant(other) as connection:
        for table in TABLES:
            assert (await connection.execute(text(f"SELECT * FROM {table}"))).all() == []  # noqa: S608 - names from here
        changed = await connection.execute(text("UPDATE feeds SET title = 'taken'"))
        gone = await connection.execute(text("DELETE FROM articles"))
        assert (changed.rowcount, gone.rowcount) == (0, 0)
    with pytest.raises(DBAPIError, match="row-level security"):
        await _plant(news, acting=other, owner=news.tenant_id)
    act_as(principal_of(other))
    assert await news.listed(query="MARKER") == []
    assert "MARKER" not in str(await news.feeds.ListFeeds(news_pb2.ListFeedsRequest()))
    act_as(principal_of(news.tenant_id))
    assert [article.title for article in await news.listed(query="MARKER")] == ["MARKER title"]
    assert (await news.feed(feed.id)).title == "MARKER feed"


async def _plant(news: Any, *, acting: UUID, owner: UUID) -> None:
    async with news.database.tenant(acting) as connection:
        await connection.execute(
            text(
                "INSERT INTO feeds (tenant_id, id, url, title, interval_seconds, next_fetch_at, created_at)"
                " VALUES (:tenant, :id, 'http://planted.example/', '', 60, now(), now())"
            ),
            {"tenant": owner, "id": uuid4()},
        )


async def test_add_that_fails_half_way_leaves_nothing(
    start_news: Any, feed_server: Any, rss: Any, fresh_database_url: str
) -> None:
    news = await start_news()
    feed_server.put("/f", rss(("a", "A", "a")))
    # The fetch's record is the last row written: everything else is there by then.
    with psycopg.connect(fresh_database_url, autocommit=True) as connection:
        connection.execute("ALTER TABLE news.feed_fetches ADD CONSTRAINT broken CHECK (status <> 200)")
    error = await news.refusal(news.add(feed_server.url("/f")))
    assert (error.kind, "feed_fetches" in error.detail) == (ErrorKind.INTERNAL, False)
    assert (await news.everything(), await news.events()) == ([0] * 5, [])


async def test_fetch_that_cannot_be_stored_is_tried_later_and_then_works(
    start_news: Any, feed_server: Any, rss: Any, fresh_database_url: str
) -> None:
    clock = ManualClock()
    news = await start_news(clock=clock)
    feed_server.put("/f", rss(("a", "A", "a")))
    feed = (await news.add(feed_server.url("/f"), 60)).feed
    before = await news.event_types()
    with psycopg.connect(fresh_database_url, autocommit=True) as connection:
        connection.execute("ALTER TABLE news.feed_fetches ADD CONSTRAINT broken CHECK (status <> 200) NOT VALID")
        feed_server.put("/f", rss(("a", "A", "changed"), ("b", "B", "b")))
        clock.advance(60)
        for _ in range(3):
            await news.tick()
            await news.idle()
            clock.advance(1)
        # Not once a second: what broke may stay broken.
        assert len(feed_server.requests) == 2
        assert (await news.event_types(), await news.count("article_versions")) == (before, 1)
        assert (await news.feed(feed.id)).consecutive_failures == 0
        connection.execute("ALTER TABLE news.feed_fetches DROP CONSTRAINT broken")
    clock.advance(120)
    await news.tick()
    await news.idle()
    assert sorted((await news.event_types())[len(before) :]) == [
        "news.article.ingested", "news.article.updated", "news.feed.fetched",
    ]  # fmt: skip


async def test_fetch_under_way_while_its_articles_go_with_another_feed(start_news: Any, feed_server: Any, rss: Any) -> None:
    """A 304 is worth nothing once the articles it stands for are deleted."""
    clock = ManualClock()
    news = await start_news(clock=clock)
    item = "<item><guid>{}</guid><link>https://news.example/story</link><title>Story</title></item>"
    feed_server.put("/one", rss(item.format("x")))
    feed_server.put("/two", rss(item.format("y")), headers={"ETag": '"2"'})
    one = (await news.add(feed_server.url("/one"), 60)).feed
    two = (await news.add(feed_server.url("/two"), 60)).feed
    answer_two = feed_server.routes["/two"]
    arrived, go_on = asyncio.Event(), asyncio.Event()

    async def held(request: Any) -> Any:
        feed_server.routes["/two"] = answer_two
        arrived.set()
        await go_on.wait()
        return await answer_two(request)

    feed_server.routes["/two"] = held
    refreshing = asyncio.create_task(news.refresh(two.id))
    await asyncio.wait_for(arrived.wait(), 10)
    await news.remove(one.id)
    go_on.set()
    answer = await refreshing
    assert (answer.not_modified, answer.new_articles) == (False, 1)
    assert [article.title for article in await news.listed()] == ["Story"]
