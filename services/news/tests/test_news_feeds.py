"""Feeds as a caller sees them: added, refreshed, removed."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from wireroom_protos.news.v1 import news_pb2

ATOM = """<?xml version="1.0"?><feed xmlns="http://www.w3.org/2005/Atom"><title>Atom news</title>
<id>urn:f</id><updated>2026-01-05T10:00:00Z</updated>
<entry><id>urn:1</id><title>Harbour opens</title><link href="https://atom.example/1"/><updated>2026-01-05T10:00:00+02:00</updated>
<content type="html">&lt;p&gt;The harbour &lt;b&gt;opened&lt;/b&gt;.&lt;/p&gt;</content></entry></feed>"""


async def test_added_rss_feed_has_articles_and_events(start_news: Any, feed_server: Any, rss: Any) -> None:
    news = await start_news()
    feed_server.put("/f", rss(("a", "Bridge closed", "The bridge is closed."), ("b", "Rain", "It rains.")))
    added = await news.add(feed_server.url("/f"))
    assert (added.new_articles, added.feed.articles, added.feed.title) == (2, 2, "Local news")
    assert added.feed.state == news_pb2.FEED_STATE_ACTIVE
    assert added.feed.interval_seconds == 300
    assert sorted(await news.event_types()) == [
        "audit.recorded", "news.article.ingested", "news.article.ingested", "news.feed.added", "news.feed.fetched",
    ]  # fmt: skip
    listed = await news.listed(query="bridge")
    assert [(article.title, article.text) for article in listed] == [("Bridge closed", "")]
    article = await news.article(listed[0].id)
    assert (article.text, article.url, article.version) == ("The bridge is closed.", "https://news.example/a", 1)
    assert article.published_at.ToJsonString() == "2026-01-05T10:00:00Z"
    assert len(feed_server.requests) == 1


async def test_added_atom_feed_is_plain_text_in_utc(start_news: Any, feed_server: Any) -> None:
    news = await start_news()
    feed_server.put("/f", ATOM)
    await news.add(feed_server.url("/f"))
    listed = await news.listed()
    article = await news.article(listed[0].id)
    assert article.text == "The harbour opened."
    assert article.published_at.ToJsonString() == "2026-01-05T08:00:00Z"


async def test_same_url_again_is_the_same_feed(start_news: Any, feed_server: Any, rss: Any) -> None:
    news, replica = await start_news(), await start_news()
    feed_server.put("/f", rss(("a", "A", "a")))
    answers = await asyncio.gather(*(each.add(feed_server.url("/f")) for each in (news, replica) for _ in range(3)))
    again = await news.add(feed_server.url("/f").replace("http:", "HTTP:") + "#top")
    assert len({answer.feed.id for answer in (*answers, again)}) == 1
    assert sum(answer.new_articles for answer in answers) == 1
    assert (await news.event_types()).count("news.feed.added") == 1
    assert await news.everything() == [1, 1, 1, 2, 1]


async def test_unchanged_feed_is_asked_conditionally(start_news: Any, feed_server: Any, rss: Any) -> None:
    news = await start_news()
    feed_server.put("/f", rss(("a", "A", "a")), headers={"ETag": '"v1"', "Last-Modified": "Mon, 05 Jan 2026 10:00:00 GMT"})
    feed = (await news.add(feed_server.url("/f"))).feed
    answer = await news.refresh(feed.id)
    assert answer.not_modified
    assert answer.feed.last_status == 304
    headers = feed_server.requests[-1][1]
    assert (headers["If-None-Match"], headers["If-Modified-Since"]) == ('"v1"', "Mon, 05 Jan 2026 10:00:00 GMT")
    assert headers["User-Agent"].startswith("Wireroom/")
    assert "Cookie" not in headers


async def test_changed_item_is_a_new_version(start_news: Any, feed_server: Any, rss: Any) -> None:
    news = await start_news()
    feed_server.put("/f", rss(("a", "A", "first"), ("b", "B", "same")))
    feed = (await news.add(feed_server.url("/f"))).feed
    feed_server.put("/f", rss(("b", "B", "same"), ("a", "A", "second")))
    answer = await news.refresh(feed.id)
    assert (answer.new_articles, answer.changed_articles) == (0, 1)
    updated = [event for name, event in await news.events() if name == "news.article.updated"]
    assert [(event.old_version, event.new_version) for event in updated] == [(1, 2)]
    versions = [(await news.article(updated[0].article_id, number)).text for number in (1, 2, 0)]
    assert versions == ["first", "second", "second"]
    answer = await news.refresh(feed.id)
    assert (answer.new_articles, answer.changed_articles) == (0, 0)


async def test_redirects_within_allowed_hosts_are_followed(start_news: Any, feed_server: Any, rss: Any) -> None:
    news = await start_news()
    feed_server.put("/old", "", status=301, headers={"Location": "/older"})
    feed_server.put("/older", "", status=308, headers={"Location": feed_server.url("/f")})
    feed_server.put("/f", rss("<item><title>Relative</title><link>story/1</link></item>"))
    assert (await news.add(feed_server.url("/old"))).new_articles == 1


async def test_concurrent_refreshes_have_one_effect(start_news: Any, feed_server: Any, rss: Any) -> None:
    first, second = await start_news(), await start_news()
    feed_server.put("/f", rss(("a", "A", "a")))
    feed = (await first.add(feed_server.url("/f"))).feed
    feed_server.put("/f", rss(("a", "A", "changed"), ("b", "B", "b")))
    request = news_pb2.RefreshFeedRequest(id=feed.id)
    await asyncio.gather(*(replica.feeds.RefreshFeed(request) for replica in (first, second) for _ in range(4)))
    types = await first.event_types()
    assert (types.count("news.article.ingested"), types.count("news.article.updated")) == (2, 1)
    assert (await first.count("articles"), await first.count("article_versions")) == (2, 3)


async def test_removed_feed_takes_its_articles_along(start_news: Any, feed_server: Any, rss: Any) -> None:
    news = await start_news()
    feed_server.put("/f", rss(("a", "A", "a")))
    feed = (await news.add(feed_server.url("/f"))).feed
    await news.remove(feed.id)
    assert (await news.event_types())[-2:] == ["news.feed.removed", "audit.recorded"]
    facts = [event for name, event in await news.events() if name == "audit.recorded"]
    assert [(fact.action, fact.outcome) for fact in facts] == [("feed.added", "success"), ("feed.removed", "success")]
    assert [json.loads(fact.details_json) for fact in facts] == [{"host": "127.0.0.1"}, {}]
    assert await news.everything() == [0] * 5
    for call in (
        news.feeds.GetFeed(news_pb2.GetFeedRequest(id=feed.id)),
        news.remove(feed.id),
        news.refresh(feed.id),
    ):
        assert (await news.refusal(call)).code == "feed_not_found"


async def test_events_tell_what_happened(start_news: Any, feed_server: Any, rss: Any) -> None:
    news = await start_news()
    url = feed_server.url("/f")
    feed_server.put("/f", rss(("a", "A", "a")))
    feed = (await news.add(url, 60)).feed
    article = (await news.listed())[0]
    feed_server.put("/f", "gone", status=410)
    for _ in range(4):
        await news.refresh(feed.id)
    feed_server.put("/f", rss(("a", "A", "b")))
    await news.refresh(feed.id)
    await news.remove(feed.id)
    events = [(name, event) for name, event in await news.events() if name != "audit.recorded"]
    told = {name: event for name, event in events if name != "news.feed.fetched"}
    assert [name for name, _ in events if name != "news.feed.fetched"] == [
        "news.feed.added", "news.article.ingested", "news.feed.degraded", "news.feed.recovered", "news.article.updated",
        "news.feed.removed",
    ]  # fmt: skip
    assert (told["news.feed.added"].url, told["news.feed.added"].interval_seconds) == (url, 60)
    ingested, updated = told["news.article.ingested"], told["news.article.updated"]
    assert (ingested.article_id, ingested.version, ingested.url, ingested.title) == (article.id, 1, "https://news.example/a", "A")
    assert (ingested.content_sha256, ingested.published_at) == (article.content_sha256, article.published_at)
    assert (updated.article_id, updated.old_version, updated.new_version) == (article.id, 1, 2)
    assert updated.content_sha256 != ingested.content_sha256
    degraded = told["news.feed.degraded"]
    assert (degraded.reason, degraded.failures) == ("feed_http_status", 3)
    assert {event.feed_id for _, event in events} == {feed.id}
    fetched = [
        (event.status, event.new_articles, event.changed_articles) for name, event in events if name == "news.feed.fetched"
    ]
    assert fetched == [(200, 1, 0), *[(410, 0, 0)] * 4, (200, 0, 1)]
