"""Which entries are the same article."""

from __future__ import annotations

from typing import Any


async def test_repeated_guid_is_one_article(start_news: Any, feed_server: Any, rss: Any) -> None:
    news = await start_news()
    feed_server.put("/f", rss(("a", "A", "one"), ("a", "A", "two"), ("a", "A", "one")))
    added = await news.add(feed_server.url("/f"))
    assert added.new_articles == 1
    answer = await news.refresh(added.feed.id)
    assert answer.changed_articles == 0


async def test_two_feeds_with_one_article_do_not_overwrite_each_other(start_news: Any, feed_server: Any, rss: Any) -> None:
    news = await start_news()
    item = "<item><guid>{}</guid><link>https://news.example/story?utm_source={}</link><title>Story</title><description>{}</description></item>"
    feed_server.put("/one", rss(item.format("x1", "one", "long version")))
    feed_server.put("/two", rss(item.format("y9", "two", "short")))
    one = (await news.add(feed_server.url("/one"))).feed
    two = await news.add(feed_server.url("/two"))
    assert two.new_articles == 0
    for _ in range(2):
        for feed_id in (one.id, two.feed.id):
            answer = await news.refresh(feed_id)
            assert answer.changed_articles == 0
    await news.remove(one.id)
    answer = await news.refresh(two.feed.id)
    assert answer.new_articles == 1


async def test_items_that_share_a_link_stay_apart(start_news: Any, feed_server: Any, rss: Any) -> None:
    news = await start_news()
    item = "<item><guid>{0}</guid><link>https://news.example/changes</link><title>Release {0}</title></item>"
    feed_server.put("/f", rss(item.format("1")))
    feed = (await news.add(feed_server.url("/f"))).feed
    for document in (rss(item.format("1"), item.format("2")), rss(item.format("2"), item.format("3")), rss(item.format("3"))):
        feed_server.put("/f", document)
        await news.refresh(feed.id)
    titles = sorted(article.title for article in await news.listed())
    assert titles == ["Release 1", "Release 2", "Release 3"]


async def test_changed_guid_with_the_same_link_is_the_same_article(start_news: Any, feed_server: Any, rss: Any) -> None:
    news = await start_news()
    item = "<item><guid>{}</guid><link>https://news.example/{}</link><title>T</title><description>{}</description></item>"
    feed_server.put("/f", rss(item.format("g1", "u1", "x")))
    feed = (await news.add(feed_server.url("/f"))).feed
    feed_server.put("/f", rss(item.format("g2", "u2", "x")))
    await news.refresh(feed.id)
    # This one joins what looked like two articles.
    feed_server.put("/f", rss(item.format("g2", "u1", "x")))
    await news.refresh(feed.id)
    assert len(await news.listed()) == 1
