"""When feeds are fetched, by whom, and what a failure leaves."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from wireroom_common.clock import ManualClock
from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_common.testing import eventually
from wireroom_news.domain.schedule import after_failure
from wireroom_news.fetching.pacing import HostPacer
from wireroom_protos.news.v1 import news_pb2


async def added(news: Any, url: str, interval: int = 60) -> news_pb2.Feed:
    feed: news_pb2.Feed = (await news.feeds.AddFeed(news_pb2.AddFeedRequest(url=url, interval_seconds=interval))).feed
    return feed


async def current(news: Any, feed: news_pb2.Feed) -> news_pb2.Feed:
    found: news_pb2.Feed = (await news.feeds.GetFeed(news_pb2.GetFeedRequest(id=feed.id))).feed
    return found


async def fetched(news: Any, times: int) -> None:
    async def enough() -> bool:
        return (await news.event_types()).count("news.feed.fetched") >= times

    await eventually(enough, what=f"{times} fetches are stored")


async def test_feed_is_fetched_when_due_and_not_before(start_news: Any, feed_server: Any, rss: Any) -> None:
    clock = ManualClock()
    news = await start_news(clock=clock)
    feed_server.put("/f", rss(("a", "A", "a")))
    feed = await added(news, feed_server.url("/f"))
    clock.advance(59)
    await news.tick()
    assert len(feed_server.requests) == 1
    feed_server.put("/f", rss(("a", "A", "a"), ("b", "B", "b")))
    clock.advance(1)
    await news.tick()
    await fetched(news, 2)
    feed = await current(news, feed)
    assert feed.articles == 2
    assert feed.next_fetch_at.ToDatetime() == clock.now().replace(tzinfo=None) + timedelta(seconds=60)


async def test_two_schedulers_fetch_a_due_feed_once(start_news: Any, feed_server: Any, rss: Any) -> None:
    clock = ManualClock()
    replicas = [await start_news(clock=clock), await start_news(clock=clock)]
    feeds = []
    for number in range(6):
        feed_server.put(f"/{number}", rss((str(number), "A", "a")))
        feeds.append(await added(replicas[0], feed_server.url(f"/{number}")))
    clock.advance(60)
    await asyncio.gather(*(replica.tick() for replica in replicas for _ in range(3)))
    await fetched(replicas[0], 12)
    await asyncio.gather(*(replica.tick() for replica in replicas))
    assert sorted(path for path, _ in feed_server.requests) == sorted(f"/{number}" for number in (*range(6), *range(6)))


async def test_late_result_of_a_lost_lease_is_discarded(start_news: Any, feed_server: Any, rss: Any) -> None:
    clock = ManualClock()
    slow, quick = await start_news(clock=clock), await start_news(clock=clock)
    feed_server.put("/f", rss(("a", "A", "first")))
    feed = await added(slow, feed_server.url("/f"))
    release, arrived = asyncio.Event(), asyncio.Event()

    async def held(_request: web.Request) -> web.StreamResponse:
        arrived.set()
        await release.wait()
        return web.Response(text=rss(("a", "A", "stale")))

    feed_server.routes["/f"] = held
    # The caller waits for the slow replica's fetch; meanwhile its lease runs out and the other one stores a newer state.
    waiting = asyncio.create_task(refresh(slow, feed))
    await asyncio.wait_for(arrived.wait(), 10)
    clock.advance(60)
    await quick.tick()
    assert len(feed_server.requests) == 2, "a leased feed is left alone although it is due"
    clock.advance(61)
    feed_server.put("/f", rss(("a", "A", "fresh")))
    await refresh(quick, feed)
    release.set()
    answer = await waiting
    assert answer.changed_articles == 0
    article = (await quick.articles.ListArticles(news_pb2.ListArticlesRequest())).articles[0]
    full = (await quick.articles.GetArticle(news_pb2.GetArticleRequest(id=article.id))).article
    assert (full.text, full.version) == ("fresh", 2)


async def refresh(news: Any, feed: news_pb2.Feed) -> news_pb2.RefreshFeedResponse:
    answer: news_pb2.RefreshFeedResponse = await news.feeds.RefreshFeed(news_pb2.RefreshFeedRequest(id=feed.id))
    return answer


async def test_sick_feed_degrades_is_tried_daily_and_recovers(start_news: Any, feed_server: Any, rss: Any) -> None:
    clock = ManualClock()
    news = await start_news(clock=clock)
    feed_server.put("/f", rss(("a", "A", "a")))
    feed = await added(news, feed_server.url("/f"))
    feed_server.put("/f", "gone", status=500)
    pauses = []
    for failures in range(1, 15):
        clock.advance(((await current(news, feed)).next_fetch_at.ToDatetime() - clock.now().replace(tzinfo=None)).total_seconds())
        await news.tick()
        await fetched(news, failures + 1)
        feed = await current(news, feed)
        pauses.append((feed.next_fetch_at.ToDatetime() - clock.now().replace(tzinfo=None)).total_seconds())
        assert feed.state == (news_pb2.FEED_STATE_DEGRADED if failures >= 3 else news_pb2.FEED_STATE_ACTIVE)
    assert pauses[:3] == [120, 240, 480]
    assert pauses[-1] == 86_400
    assert (feed.last_status, feed.consecutive_failures) == (500, 14)
    assert feed.last_error.startswith("feed_http_status: ")
    assert (await news.event_types()).count("news.feed.degraded") == 1
    assert (feed.articles, feed.title) == (1, "Local news")
    feed_server.put("/f", rss(("b", "B", "b")))
    clock.advance(7 * 86_400)
    await news.tick()
    await fetched(news, 16)
    feed = await current(news, feed)
    assert (feed.state, feed.consecutive_failures, feed.last_error) == (news_pb2.FEED_STATE_ACTIVE, 0, "")
    assert (await news.event_types()).count("news.feed.recovered") == 1


@pytest.mark.parametrize(
    ("status", "value", "pause"),
    [
        (429, "7200", 7200),
        (503, "Thu, 01 Jan 2026 03:00:00 GMT", 10_800),
        (429, "99999999999", 86_400),
        (429, "soon", 120),
        (503, "Mon, 01 Jan 0001 00:00:00 +1400", 120),
        (500, "7200", 120),
    ],
)
async def test_retry_after_is_honoured(  # noqa: PLR0917 - fixtures and one row of the table
    start_news: Any, feed_server: Any, rss: Any, status: int, value: str, pause: int
) -> None:
    clock = ManualClock()
    news = await start_news(clock=clock)
    feed_server.put("/f", rss(("a", "A", "a")))
    feed = await added(news, feed_server.url("/f"))
    feed_server.put("/f", "", status=status, headers={"Retry-After": value})
    answer = await refresh(news, feed)
    assert answer.feed.last_status == status
    assert answer.feed.next_fetch_at.ToDatetime() == clock.now().replace(tzinfo=None) + timedelta(seconds=pause)


async def test_hung_feed_does_not_delay_the_others(start_news: Any, feed_server: Any, rss: Any) -> None:
    clock = ManualClock()
    news = await start_news(clock=clock, fetch_concurrency=2)
    for name in ("hung", "a", "b", "c"):
        feed_server.put(f"/{name}", rss((name, name, name)))
        await added(news, feed_server.url(f"/{name}"))
    release = asyncio.Event()

    async def held(_request: web.Request) -> web.StreamResponse:
        await release.wait()
        return web.Response(text=rss(("hung", "hung", "hung")))

    feed_server.routes["/hung"] = held
    clock.advance(60)

    async def others_done() -> bool:
        await news.tick()
        return (await news.event_types()).count("news.feed.fetched") == 7

    await eventually(others_done)
    release.set()
    await fetched(news, 8)


async def test_fetch_that_fails_half_way_leaves_nothing(
    start_news: Any, feed_server: Any, rss: Any, fresh_database_url: str
) -> None:
    news = await start_news()
    feed_server.put("/f", rss(("a", "A", "a")))
    feed = await added(news, feed_server.url("/f"))
    with psycopg.connect(fresh_database_url, autocommit=True) as connection:
        connection.execute("ALTER TABLE news.article_versions ADD CHECK (title <> 'boom')")
    before = await news.event_types()
    feed_server.put("/f", rss(("a", "A", "changed"), ("b", "B", "b"), ("c", "boom", "c")))
    with pytest.raises(WireroomError) as caught:
        await refresh(news, feed)
    assert caught.value.kind is ErrorKind.INTERNAL
    assert await news.event_types() == before
    assert (await news.count("articles"), await news.count("article_versions"), await news.count("feed_fetches")) == (1, 1, 1)
    with pytest.raises(WireroomError):
        await news.feeds.AddFeed(news_pb2.AddFeedRequest(url=feed_server.url("/f") + "?again"))
    assert await news.count("feeds") == 1


async def test_history_is_bounded(start_news: Any, feed_server: Any, rss: Any) -> None:
    news = await start_news(fetches_kept=3, versions_kept=2)
    feed_server.put("/f", rss(("a", "A", "0")))
    feed = await added(news, feed_server.url("/f"))
    for number in range(1, 6):
        feed_server.put("/f", rss(("a", "A", str(number))))
        assert (await refresh(news, feed)).changed_articles == 1
    assert (await news.count("feed_fetches"), await news.count("article_versions")) == (3, 2)


async def test_one_host_is_asked_once_a_second() -> None:
    clock = ManualClock()
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    pacer = HostPacer(clock, 1.0, sleep)
    for host in ("a", "a", "b", "a"):
        await pacer.turn(host)
    clock.advance(2.5)
    await pacer.turn("a")
    clock.advance(5)
    await pacer.turn("a")
    assert waits == [1.0, 2.0, 0.5]


@given(st.integers(1, 604_800), st.integers(1, 10_000), st.floats(0, 1e9))
def test_pause_after_a_failure_is_bounded(interval: int, failures: int, retry_after: float) -> None:
    now = ManualClock().now()
    pause = (after_failure(now, interval, failures, retry_after) - now).total_seconds()
    assert min(interval, 86_400) <= pause <= 86_400
    assert pause >= min(retry_after, 86_400) - 1e-3
