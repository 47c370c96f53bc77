"""Who may see what, and in which pieces."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import text

from wireroom_common.errors import ErrorKind
from wireroom_common.principal import PrincipalKind
from wireroom_protos.news.v1 import news_pb2


async def test_other_tenant_sees_and_changes_nothing(
    start_news: Any, feed_server: Any, rss: Any, act_as: Any, principal_of: Any
) -> None:
    news = await start_news()
    feed_server.put("/f", rss(("a", "A", "a")))
    feed = (await news.add(feed_server.url("/f"))).feed
    article = (await news.listed())[0]
    other = uuid4()
    act_as(principal_of(other))
    assert (await news.refusal(news.feeds.GetFeed(news_pb2.GetFeedRequest(id=feed.id)))).kind is ErrorKind.NOT_FOUND
    assert (await news.refusal(news.remove(feed.id))).kind is ErrorKind.NOT_FOUND
    assert (await news.refusal(news.refresh(feed.id))).kind is ErrorKind.NOT_FOUND
    assert (await news.refusal(news.article(article.id))).kind is ErrorKind.NOT_FOUND
    assert not (await news.feeds.ListFeeds(news_pb2.ListFeedsRequest())).feeds
    assert not await news.listed()
    own = await news.add(feed_server.url("/f"))
    assert own.feed.id != feed.id
    assert own.new_articles == 1
    async with news.database.tenant(other) as connection:
        for table in ("feeds", "articles", "article_versions", "article_keys", "feed_fetches"):
            tenants = (await connection.execute(text(f"SELECT DISTINCT tenant_id FROM {table}"))).scalars().all()  # noqa: S608 - names from here
            assert tenants == [other]


async def test_permissions_are_needed(start_news: Any, feed_server: Any, rss: Any, act_as: Any, principal_of: Any) -> None:
    news = await start_news()
    feed_server.put("/f", rss(("a", "A", "a")))
    feed = (await news.add(feed_server.url("/f"))).feed
    article = (await news.listed())[0]
    act_as(principal_of(news.tenant_id, frozenset({"news:read"})))
    for call in (
        news.add(feed_server.url("/f")),
        news.remove(feed.id),
        news.refresh(feed.id),
    ):
        assert (await news.refusal(call)).kind is ErrorKind.FORBIDDEN
    act_as(principal_of(news.tenant_id, frozenset({"feeds:manage"})))
    assert (await news.refusal(news.article(article.id))).kind is ErrorKind.FORBIDDEN
    assert (await news.refusal(news.articles.ListArticles(news_pb2.ListArticlesRequest()))).kind is ErrorKind.FORBIDDEN
    act_as(principal_of(news.tenant_id, frozenset(), PrincipalKind.SERVICE))
    assert (await news.article(article.id)).title == "A"
    act_as(None)
    assert (await news.refusal(news.feeds.ListFeeds(news_pb2.ListFeedsRequest()))).kind is ErrorKind.UNAUTHENTICATED


async def test_lists_are_paged_without_gaps(start_news: Any, feed_server: Any, rss: Any) -> None:
    news = await start_news()
    for name in ("x", "y", "z"):
        feed_server.put(f"/{name}", rss(*((f"{name}{n}", f"Title {name}{n}", "100% sure") for n in range(5))))
        await news.add(feed_server.url(f"/{name}"))
    seen: list[str] = []
    token = ""
    while True:
        page = await news.articles.ListArticles(news_pb2.ListArticlesRequest(page_size=4, page_token=token))
        seen += [article.id for article in page.articles]
        token = page.next_page_token
        if not token:
            break
    assert len(seen) == len(set(seen)) == 15
    feeds = await news.feeds.ListFeeds(news_pb2.ListFeedsRequest(page_size=2))
    rest = await news.feeds.ListFeeds(news_pb2.ListFeedsRequest(page_size=2, page_token=feeds.next_page_token))
    assert (len(feeds.feeds), len(rest.feeds), rest.next_page_token) == (2, 1, "")
    only = await news.articles.ListArticles(news_pb2.ListArticlesRequest(feed_id=feeds.feeds[0].id))
    assert {article.title[:7] for article in only.articles} == {"Title x"}
    assert len(await news.listed(query="100%")) == 15
    assert not await news.listed(query="1_0%")


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (news_pb2.ListArticlesRequest(query="x" * 201), "query_invalid"),
        (news_pb2.ListArticlesRequest(page_size=-1), "page_size_invalid"),
        (news_pb2.ListArticlesRequest(page_token="rubbish!"), "page_token_invalid"),
        (news_pb2.ListArticlesRequest(page_token="WyJ4Il0"), "page_token_invalid"),
        (news_pb2.ListArticlesRequest(feed_id="x"), "id_malformed"),
    ],
)
async def test_bad_list_requests_are_refused(start_news: Any, request_: Any, code: str) -> None:
    news = await start_news()
    error = await news.refusal(news.articles.ListArticles(request_))
    assert (error.kind, error.code) == (ErrorKind.INVALID, code)
