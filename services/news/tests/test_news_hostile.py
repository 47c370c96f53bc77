"""Documents made to hurt."""

from __future__ import annotations

from typing import Any


async def test_active_content_is_removed(start_news: Any, feed_server: Any, rss: Any) -> None:
    news = await start_news()
    bad = (
        "<item><guid>1</guid><link>javascript:alert(1)</link><title>&lt;img src=x onerror=alert(1)&gt;Title</title>"
        "<description>&lt;script&gt;alert(1)&lt;/script&gt;&lt;p onclick='x()'&gt;Body&lt;/p&gt;"
        "&amp;lt;svg/onload=alert(2)&amp;gt; &lt;a href='javascript:alert(3)'&gt;link&lt;/a&gt;</description>"
        "<author>&lt;iframe src='//x'&gt;&lt;/iframe&gt;Ann</author></item>"
    )
    feed_server.put("/f", rss(bad, title="&lt;b onmouseover=x()&gt;Feed&lt;/b&gt;"))
    feed = (await news.add(feed_server.url("/f"))).feed
    listed = await news.listed()
    article = await news.article(listed[0].id)
    assert (feed.title, article.title, article.text, article.url, article.author) == ("Feed", "Title", "Body\nlink", "", "Ann")
    assert "alert" not in f"{article}"


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
    assert (await news.refusal(news.add(feed_server.url("/attributes")))).code == "feed_too_complex"
    assert (await news.refusal(news.add(feed_server.url("/path")))).code == "feed_not_a_feed"
    laughs = await news.add(feed_server.url("/laughs"))
    assert len(laughs.feed.title) <= 1_000
    await news.add(feed_server.url("/external"))
    for article in await news.listed():
        full = await news.article(article.id)
        assert "root:" not in full.title + full.text
    assert (await news.add(feed_server.url("/many"))).new_articles == 1_000
