"""Feeds as a caller sees them: added, refreshed, refused, removed."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import uuid4

import pytest
from aiohttp import web
from sqlalchemy import text
from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_common.principal import PrincipalKind
from wireroom_protos.news.v1 import news_pb2

ATOM = """<?xml version="1.0"?><feed xmlns="http://www.w3.org/2005/Atom"><title>Atom news</title><id>urn:f</id><updated>2026-01-05T10:00:00Z</updated>
<entry><id>urn:1</id><title>Harbour opens</title><link href="https://atom.example/1"/><updated>2026-01-05T10:00:00+02:00</updated>
<content type="html">&lt;p&gt;The harbour &lt;b&gt;opened&lt;/b&gt;.&lt;/p&gt;</content></entry></feed>"""


async def refusal(awaitable: Any) -> WireroomError:
    with pytest.raises(WireroomError) as caught:
        await awaitable
    return caught.value


def add(url: str, interval: int = 0) -> news_pb2.AddFeedRequest:
    return news_pb2.AddFeedRequest(url=url, interval_seconds=interval)


async def test_added_rss_feed_has_articles_and_events(start_news: Any, feed_server: Any, rss: Any) -> None:
    news = await start_news()
    feed_server.put("/f", rss(("a", "Bridge closed", "The bridge is closed."), ("b", "Rain", "It rains.")))
    added = await news.feeds.AddFeed(add(feed_server.url("/f")))
    assert (added.new_articles, added.feed.articles, added.feed.title) == (2, 2, "Local news")
    assert added.feed.state == news_pb2.FEED_STATE_ACTIVE
    assert added.feed.interval_seconds == 300
    assert sorted(await news.event_types()) == [
        "news.article.ingested", "news.article.ingested", "news.feed.added", "news.feed.fetched",
    ]  # fmt: skip
    listed = (await news.articles.ListArticles(news_pb2.ListArticlesRequest(query="bridge"))).articles
    assert [(article.title, article.text) for article in listed] == [("Bridge closed", "")]
    article = (await news.articles.GetArticle(news_pb2.GetArticleRequest(id=listed[0].id))).article
    assert (article.text, article.url, article.version) == ("The bridge is closed.", "https://news.example/a", 1)
    assert article.published_at.ToJsonString() == "2026-01-05T10:00:00Z"
    assert len(feed_server.requests) == 1


async def test_added_atom_feed_is_plain_text_in_utc(start_news: Any, feed_server: Any) -> None:
    news = await start_news()
    feed_server.put("/f", ATOM)
    await news.feeds.AddFeed(add(feed_server.url("/f")))
    listed = (await news.articles.ListArticles(news_pb2.ListArticlesRequest())).articles
    article = (await news.articles.GetArticle(news_pb2.GetArticleRequest(id=listed[0].id))).article
    assert article.text == "The harbour opened."
    assert article.published_at.ToJsonString() == "2026-01-05T08:00:00Z"


async def test_same_url_again_is_the_same_feed(start_news: Any, feed_server: Any, rss: Any) -> None:
    news = await start_news()
    feed_server.put("/f", rss(("a", "A", "a")))
    answers = await asyncio.gather(*(news.feeds.AddFeed(add(feed_server.url("/f"))) for _ in range(4)))
    again = await news.feeds.AddFeed(add(feed_server.url("/f").replace("http:", "HTTP:") + "#top"))
    assert len({answer.feed.id for answer in (*answers, again)}) == 1
    assert sum(answer.new_articles for answer in answers) == 1
    assert (await news.event_types()).count("news.feed.added") == 1


async def test_unchanged_feed_is_asked_conditionally(start_news: Any, feed_server: Any, rss: Any) -> None:
    news = await start_news()
    feed_server.put("/f", rss(("a", "A", "a")), headers={"ETag": '"v1"', "Last-Modified": "Mon, 05 Jan 2026 10:00:00 GMT"})
    feed = (await news.feeds.AddFeed(add(feed_server.url("/f")))).feed
    answer = await news.feeds.RefreshFeed(news_pb2.RefreshFeedRequest(id=feed.id))
    assert answer.not_modified
    assert answer.feed.last_status == 304
    headers = feed_server.requests[-1][1]
    assert (headers["If-None-Match"], headers["If-Modified-Since"]) == ('"v1"', "Mon, 05 Jan 2026 10:00:00 GMT")
    assert headers["User-Agent"].startswith("Wireroom/")
    assert "Cookie" not in headers


async def test_changed_item_is_a_new_version(start_news: Any, feed_server: Any, rss: Any) -> None:
    news = await start_news()
    feed_server.put("/f", rss(("a", "A", "first"), ("b", "B", "same")))
    feed = (await news.feeds.AddFeed(add(feed_server.url("/f")))).feed
    feed_server.put("/f", rss(("b", "B", "same"), ("a", "A", "second")))
    answer = await news.feeds.RefreshFeed(news_pb2.RefreshFeedRequest(id=feed.id))
    assert (answer.new_articles, answer.changed_articles) == (0, 1)
    updated = [event for name, event in await news.events() if name == "news.article.updated"]
    assert [(event.old_version, event.new_version) for event in updated] == [(1, 2)]
    versions = [
        (await news.articles.GetArticle(news_pb2.GetArticleRequest(id=updated[0].article_id, version=number))).article.text
        for number in (1, 2, 0)
    ]
    assert versions == ["first", "second", "second"]
    answer = await news.feeds.RefreshFeed(news_pb2.RefreshFeedRequest(id=feed.id))
    assert (answer.new_articles, answer.changed_articles) == (0, 0)


async def test_repeated_guid_is_one_article(start_news: Any, feed_server: Any, rss: Any) -> None:
    news = await start_news()
    feed_server.put("/f", rss(("a", "A", "one"), ("a", "A", "two"), ("a", "A", "one")))
    added = await news.feeds.AddFeed(add(feed_server.url("/f")))
    assert added.new_articles == 1
    answer = await news.feeds.RefreshFeed(news_pb2.RefreshFeedRequest(id=added.feed.id))
    assert answer.changed_articles == 0


async def test_two_feeds_with_one_article_do_not_overwrite_each_other(start_news: Any, feed_server: Any, rss: Any) -> None:
    news = await start_news()
    item = "<item><guid>{}</guid><link>https://news.example/story?utm_source={}</link><title>Story</title><description>{}</description></item>"
    feed_server.put("/one", rss(item.format("x1", "one", "long version")))
    feed_server.put("/two", rss(item.format("y9", "two", "short")))
    one = (await news.feeds.AddFeed(add(feed_server.url("/one")))).feed
    two = await news.feeds.AddFeed(add(feed_server.url("/two")))
    assert two.new_articles == 0
    for _ in range(2):
        for feed_id in (one.id, two.feed.id):
            answer = await news.feeds.RefreshFeed(news_pb2.RefreshFeedRequest(id=feed_id))
            assert answer.changed_articles == 0
    await news.feeds.RemoveFeed(news_pb2.RemoveFeedRequest(id=one.id))
    answer = await news.feeds.RefreshFeed(news_pb2.RefreshFeedRequest(id=two.feed.id))
    assert answer.new_articles == 1


async def test_items_that_share_a_link_stay_apart(start_news: Any, feed_server: Any, rss: Any) -> None:
    news = await start_news()
    item = "<item><guid>{0}</guid><link>https://news.example/changes</link><title>Release {0}</title></item>"
    feed_server.put("/f", rss(item.format("1")))
    feed = (await news.feeds.AddFeed(add(feed_server.url("/f")))).feed
    for document in (rss(item.format("1"), item.format("2")), rss(item.format("2"), item.format("3")), rss(item.format("3"))):
        feed_server.put("/f", document)
        await news.feeds.RefreshFeed(news_pb2.RefreshFeedRequest(id=feed.id))
    titles = sorted(article.title for article in (await news.articles.ListArticles(news_pb2.ListArticlesRequest())).articles)
    assert titles == ["Release 1", "Release 2", "Release 3"]


async def test_changed_guid_with_the_same_link_is_the_same_article(start_news: Any, feed_server: Any, rss: Any) -> None:
    news = await start_news()
    item = "<item><guid>{}</guid><link>https://news.example/{}</link><title>T</title><description>{}</description></item>"
    feed_server.put("/f", rss(item.format("g1", "u1", "x")))
    feed = (await news.feeds.AddFeed(add(feed_server.url("/f")))).feed
    feed_server.put("/f", rss(item.format("g2", "u2", "x")))
    await news.feeds.RefreshFeed(news_pb2.RefreshFeedRequest(id=feed.id))
    # This one joins what looked like two articles.
    feed_server.put("/f", rss(item.format("g2", "u1", "x")))
    await news.feeds.RefreshFeed(news_pb2.RefreshFeedRequest(id=feed.id))
    assert len((await news.articles.ListArticles(news_pb2.ListArticlesRequest())).articles) == 1


async def test_active_content_is_removed(start_news: Any, feed_server: Any, rss: Any) -> None:
    news = await start_news()
    bad = (
        "<item><guid>1</guid><link>javascript:alert(1)</link><title>&lt;img src=x onerror=alert(1)&gt;Title</title>"
        "<description>&lt;script&gt;alert(1)&lt;/script&gt;&lt;p onclick='x()'&gt;Body&lt;/p&gt;"
        "&amp;lt;svg/onload=alert(2)&amp;gt; &lt;a href='javascript:alert(3)'&gt;link&lt;/a&gt;</description>"
        "<author>&lt;iframe src='//x'&gt;&lt;/iframe&gt;Ann</author></item>"
    )
    feed_server.put("/f", rss(bad, title="&lt;b onmouseover=x()&gt;Feed&lt;/b&gt;"))
    feed = (await news.feeds.AddFeed(add(feed_server.url("/f")))).feed
    listed = (await news.articles.ListArticles(news_pb2.ListArticlesRequest())).articles
    article = (await news.articles.GetArticle(news_pb2.GetArticleRequest(id=listed[0].id))).article
    assert (feed.title, article.title, article.text, article.url, article.author) == ("Feed", "Title", "Body\nlink", "", "Ann")
    assert "alert" not in f"{article}"


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/missing", "feed_http_status"),
        ("/html", "feed_not_a_feed"),
        ("/empty", "feed_not_a_feed"),
        ("/big", "feed_too_large"),
        ("/bomb", "feed_too_large"),
        ("/bombfile", "feed_too_large"),
        ("/private", "feed_address_forbidden"),
        ("/metadata", "feed_address_forbidden"),
        ("/file", "feed_url_invalid"),
        ("/loop", "feed_unreachable"),
        ("/brotli", "feed_not_a_feed"),
    ],
)
async def test_unreadable_feed_is_refused_and_leaves_nothing(
    start_news: Any, feed_server: Any, gzip_bomb: bytes, path: str, code: str
) -> None:
    news = await start_news()
    feed_server.put("/html", "<!doctype html><html><head><title>x</title></head><body><p>hello</p></body></html>")
    feed_server.put("/empty", "")
    feed_server.put("/big", b"<rss>" + b" " * 10_000_000)
    feed_server.put("/bomb", gzip_bomb, headers={"Content-Encoding": "gzip"})
    feed_server.put("/bombfile", gzip_bomb)
    feed_server.put("/private", "", status=302, headers={"Location": "http://192.168.1.1/feed"})
    feed_server.put("/metadata", "", status=307, headers={"Location": "http://[::ffff:169.254.169.254]/latest"})
    feed_server.put("/file", "", status=301, headers={"Location": "file:///etc/passwd"})
    feed_server.put("/loop", "", status=302, headers={"Location": "/loop"})
    feed_server.put("/brotli", b"x", headers={"Content-Encoding": "br"})
    error = await refusal(news.feeds.AddFeed(add(feed_server.url(path))))
    assert (error.kind, error.code) == (ErrorKind.INVALID, code)
    assert [problem.field for problem in error.fields] == ["url"]
    assert [await news.count(table) for table in ("feeds", "articles", "article_versions", "article_keys", "feed_fetches")] == [
        0
    ] * 5
    assert await news.events() == []


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("ftp://news.example/feed", "feed_url_invalid"),
        ("not a url", "feed_url_invalid"),
        ("http://user:secret@news.example/feed", "feed_url_invalid"),
        ("http://127.0.0.1:1/feed", "feed_address_forbidden"),
        ("http://[::1]/feed", "feed_address_forbidden"),
        ("http://[64:ff9b::7f00:1]/feed", "feed_address_forbidden"),
        ("http://2130706433/feed", "feed_address_forbidden"),
        ("http://inside.example/feed", "feed_address_forbidden"),
        ("http://mixed.example/feed", "feed_address_forbidden"),
        ("http://public.example:22/feed", "feed_address_forbidden"),
        ("http://unknown.example/feed", "feed_unreachable"),
    ],
)
async def test_forbidden_address_is_refused(start_news: Any, url: str, code: str) -> None:
    names = {
        "inside.example": ["10.0.0.5"],
        "mixed.example": ["93.184.215.14", "127.0.0.1"],
        "public.example": ["93.184.215.14"],
        "2130706433": ["127.0.0.1"],
    }

    async def resolve(host: str, port: int) -> list[str]:
        if host not in names:
            raise OSError(host)
        return names[host]

    news = await start_news(resolve=resolve)
    assert (await refusal(news.feeds.AddFeed(add(url)))).code == code
    assert await news.count("feeds") == 0


async def test_connection_goes_to_the_address_that_was_checked(start_news: Any, feed_server: Any, rss: Any) -> None:
    asked: list[str] = []

    async def rebinding(host: str, port: int) -> list[str]:
        asked.append(host)
        return ["127.0.0.1"] if len(asked) == 1 else ["10.0.0.1"]

    news = await start_news(resolve=rebinding, allowed_private_hosts="127.0.0.0/8")
    feed_server.put("/f", rss(("a", "A", "a")))
    added = await news.feeds.AddFeed(add(f"http://feeds.example:{feed_server.port}/f"))
    assert added.new_articles == 1
    assert asked == ["feeds.example"]
    assert feed_server.requests[0][1]["Host"] == f"feeds.example:{feed_server.port}"


async def test_redirects_within_allowed_hosts_are_followed(start_news: Any, feed_server: Any, rss: Any) -> None:
    news = await start_news()
    feed_server.put("/old", "", status=301, headers={"Location": "/older"})
    feed_server.put("/older", "", status=308, headers={"Location": feed_server.url("/f")})
    feed_server.put("/f", rss("<item><title>Relative</title><link>story/1</link></item>"))
    assert (await news.feeds.AddFeed(add(feed_server.url("/old")))).new_articles == 1


async def test_silent_server_times_out(start_news: Any, feed_server: Any) -> None:
    gone = asyncio.Event()

    async def tarpit(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"<rss>")
        await gone.wait()
        return response

    feed_server.routes["/slow"] = tarpit
    news = await start_news(fetch_timeout_seconds=0.2)
    assert (await refusal(news.feeds.AddFeed(add(feed_server.url("/slow"))))).code == "feed_timeout"
    gone.set()


async def test_hostile_documents_are_bounded(start_news: Any, feed_server: Any, rss: Any) -> None:
    news = await start_news(parse_timeout_seconds=1.5)
    attributes = b" ".join(b'a%d="x"' % number for number in range(100_000))
    feed_server.put("/attributes", b"<feed " + attributes + b"><entry><title>x</title></entry>")
    entities = "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 20}">' for n in range(1, 12))
    feed_server.put(
        "/laughs", f'<!DOCTYPE r [<!ENTITY e0 "lol">{entities}]><rss version="2.0"><channel><title>&e11;</title></channel></rss>'
    )
    feed_server.put(
        "/external", '<!DOCTYPE r [<!ENTITY x SYSTEM "file:///etc/passwd">]>' + rss(("a", "&x;", "&x;")).partition("?>")[2]
    )
    feed_server.put("/path", "/etc/passwd")
    feed_server.put("/many", rss(*((str(n), f"T{n}", "x") for n in range(1_500))))
    assert (await refusal(news.feeds.AddFeed(add(feed_server.url("/attributes"))))).code == "feed_too_complex"
    assert (await refusal(news.feeds.AddFeed(add(feed_server.url("/path"))))).code == "feed_not_a_feed"
    laughs = await news.feeds.AddFeed(add(feed_server.url("/laughs")))
    assert len(laughs.feed.title) <= 1_000
    await news.feeds.AddFeed(add(feed_server.url("/external")))
    for article in (await news.articles.ListArticles(news_pb2.ListArticlesRequest())).articles:
        full = (await news.articles.GetArticle(news_pb2.GetArticleRequest(id=article.id))).article
        assert "root:" not in full.title + full.text
    assert (await news.feeds.AddFeed(add(feed_server.url("/many")))).new_articles == 1_000


async def test_concurrent_refreshes_have_one_effect(start_news: Any, feed_server: Any, rss: Any) -> None:
    first, second = await start_news(), await start_news()
    feed_server.put("/f", rss(("a", "A", "a")))
    feed = (await first.feeds.AddFeed(add(feed_server.url("/f")))).feed
    feed_server.put("/f", rss(("a", "A", "changed"), ("b", "B", "b")))
    request = news_pb2.RefreshFeedRequest(id=feed.id)
    await asyncio.gather(*(replica.feeds.RefreshFeed(request) for replica in (first, second) for _ in range(4)))
    types = await first.event_types()
    assert (types.count("news.article.ingested"), types.count("news.article.updated")) == (2, 1)
    assert (await first.count("articles"), await first.count("article_versions")) == (2, 3)


async def test_removed_feed_takes_its_articles_along(start_news: Any, feed_server: Any, rss: Any) -> None:
    news = await start_news()
    feed_server.put("/f", rss(("a", "A", "a")))
    feed = (await news.feeds.AddFeed(add(feed_server.url("/f")))).feed
    await news.feeds.RemoveFeed(news_pb2.RemoveFeedRequest(id=feed.id))
    assert (await news.event_types())[-1] == "news.feed.removed"
    assert [await news.count(table) for table in ("feeds", "articles", "article_versions", "article_keys", "feed_fetches")] == [
        0
    ] * 5
    for call in (news.feeds.GetFeed, news.feeds.RemoveFeed, news.feeds.RefreshFeed):
        name = call._method.decode() if isinstance(getattr(call, "_method", b""), bytes) else ""
        request = {"GetFeed": news_pb2.GetFeedRequest, "RemoveFeed": news_pb2.RemoveFeedRequest}.get(
            name, news_pb2.RefreshFeedRequest
        )
        assert (await refusal(call(request(id=feed.id)))).code == "feed_not_found"


async def test_other_tenant_sees_and_changes_nothing(
    start_news: Any, feed_server: Any, rss: Any, act_as: Any, principal_of: Any
) -> None:
    news = await start_news()
    feed_server.put("/f", rss(("a", "A", "a")))
    feed = (await news.feeds.AddFeed(add(feed_server.url("/f")))).feed
    article = (await news.articles.ListArticles(news_pb2.ListArticlesRequest())).articles[0]
    other = uuid4()
    act_as(principal_of(other))
    assert (await refusal(news.feeds.GetFeed(news_pb2.GetFeedRequest(id=feed.id)))).kind is ErrorKind.NOT_FOUND
    assert (await refusal(news.feeds.RemoveFeed(news_pb2.RemoveFeedRequest(id=feed.id)))).kind is ErrorKind.NOT_FOUND
    assert (await refusal(news.feeds.RefreshFeed(news_pb2.RefreshFeedRequest(id=feed.id)))).kind is ErrorKind.NOT_FOUND
    assert (await refusal(news.articles.GetArticle(news_pb2.GetArticleRequest(id=article.id)))).kind is ErrorKind.NOT_FOUND
    assert not (await news.feeds.ListFeeds(news_pb2.ListFeedsRequest())).feeds
    assert not (await news.articles.ListArticles(news_pb2.ListArticlesRequest())).articles
    own = await news.feeds.AddFeed(add(feed_server.url("/f")))
    assert own.feed.id != feed.id
    assert own.new_articles == 1
    async with news.database.tenant(other) as connection:
        for table in ("feeds", "articles", "article_versions", "article_keys", "feed_fetches"):
            tenants = (await connection.execute(text(f"SELECT DISTINCT tenant_id FROM {table}"))).scalars().all()  # noqa: S608 - names from here
            assert tenants == [other]


async def test_permissions_are_needed(start_news: Any, feed_server: Any, rss: Any, act_as: Any, principal_of: Any) -> None:
    news = await start_news()
    feed_server.put("/f", rss(("a", "A", "a")))
    feed = (await news.feeds.AddFeed(add(feed_server.url("/f")))).feed
    article = (await news.articles.ListArticles(news_pb2.ListArticlesRequest())).articles[0]
    act_as(principal_of(news.tenant_id, frozenset({"news:read"})))
    for call in (
        news.feeds.AddFeed(add(feed_server.url("/f"))),
        news.feeds.RemoveFeed(news_pb2.RemoveFeedRequest(id=feed.id)),
        news.feeds.RefreshFeed(news_pb2.RefreshFeedRequest(id=feed.id)),
    ):
        assert (await refusal(call)).kind is ErrorKind.FORBIDDEN
    act_as(principal_of(news.tenant_id, frozenset({"feeds:manage"})))
    assert (await refusal(news.articles.GetArticle(news_pb2.GetArticleRequest(id=article.id)))).kind is ErrorKind.FORBIDDEN
    assert (await refusal(news.articles.ListArticles(news_pb2.ListArticlesRequest()))).kind is ErrorKind.FORBIDDEN
    act_as(principal_of(news.tenant_id, frozenset(), PrincipalKind.SERVICE))
    assert (await news.articles.GetArticle(news_pb2.GetArticleRequest(id=article.id))).article.title == "A"
    act_as(None)
    assert (await refusal(news.feeds.ListFeeds(news_pb2.ListFeedsRequest()))).kind is ErrorKind.UNAUTHENTICATED


async def test_lists_are_paged_without_gaps(start_news: Any, feed_server: Any, rss: Any) -> None:
    news = await start_news()
    for name in ("x", "y", "z"):
        feed_server.put(f"/{name}", rss(*((f"{name}{n}", f"Title {name}{n}", "100% sure") for n in range(5))))
        await news.feeds.AddFeed(add(feed_server.url(f"/{name}")))
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
    assert len((await news.articles.ListArticles(news_pb2.ListArticlesRequest(query="100%"))).articles) == 15
    assert not (await news.articles.ListArticles(news_pb2.ListArticlesRequest(query="1_0%"))).articles


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
    error = await refusal(news.articles.ListArticles(request_))
    assert (error.kind, error.code) == (ErrorKind.INVALID, code)
