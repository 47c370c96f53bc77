"""Feeds that are refused, and why; nothing of them stays."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest
from aiohttp import web

from wireroom_common.errors import ErrorKind


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
    error = await news.refusal(news.add(feed_server.url(path)))
    assert (error.kind, error.code) == (ErrorKind.INVALID, code)
    assert [problem.field for problem in error.fields] == ["url"]
    assert await news.everything() == [0] * 5
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
    assert (await news.refusal(news.add(url))).code == code
    assert await news.count("feeds") == 0


async def test_connection_goes_to_the_address_that_was_checked(start_news: Any, feed_server: Any, rss: Any) -> None:
    asked: list[str] = []

    async def rebinding(host: str, port: int) -> list[str]:
        asked.append(host)
        return ["127.0.0.1"] if len(asked) == 1 else ["10.0.0.1"]

    news = await start_news(resolve=rebinding, allowed_private_hosts="127.0.0.0/8")
    feed_server.put("/f", rss(("a", "A", "a")))
    added = await news.add(f"http://feeds.example:{feed_server.port}/f")
    assert added.new_articles == 1
    assert asked == ["feeds.example"]
    assert feed_server.requests[0][1]["Host"] == f"feeds.example:{feed_server.port}"


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
    assert (await news.refusal(news.add(feed_server.url("/slow")))).code == "feed_timeout"
    gone.set()


async def test_slow_redirects_share_one_time_limit(start_news: Any, feed_server: Any) -> None:
    never = asyncio.Event()

    async def hop(_request: web.Request) -> web.StreamResponse:
        # Each hop alone stays below the limit.
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(never.wait(), 0.25)
        return web.Response(status=302, headers={"Location": f"/hop{len(feed_server.requests)}"})

    for number in range(8):
        feed_server.routes[f"/hop{number}"] = hop
    news = await start_news(fetch_timeout_seconds=0.6)
    assert (await news.refusal(news.add(feed_server.url("/hop0")))).code == "feed_timeout"
    assert len(feed_server.requests) <= 3


async def test_name_that_does_not_resolve_in_time_times_out(start_news: Any) -> None:
    async def hang(host: str, port: int) -> list[str]:
        await asyncio.Event().wait()
        return []

    news = await start_news(resolve=hang, connect_timeout_seconds=0.1)
    assert (await news.refusal(news.add("http://slow.example/f"))).code == "feed_timeout"


async def test_redirect_that_turns_private_is_refused(start_news: Any, feed_server: Any, rss: Any) -> None:
    answers = iter((["127.0.0.1"], ["10.0.0.7"]))

    async def rebinding(host: str, port: int) -> list[str]:
        return next(answers)

    news = await start_news(resolve=rebinding, allowed_private_hosts="127.0.0.0/8")
    feed_server.put("/f", "", status=302, headers={"Location": "/again"})
    feed_server.put("/again", rss(("a", "A", "a")))
    url = f"http://feeds.example:{feed_server.port}/f"
    assert (await news.refusal(news.add(url))).code == "feed_address_forbidden"
    assert [path for path, _ in feed_server.requests] == ["/f"]


@pytest.mark.parametrize("raw", [b'"\xff\xfe"', b'"' + b"x" * 600 + b'"'])
async def test_validator_that_cannot_be_sent_back_is_not_kept(start_news: Any, rss: Any, raw: bytes) -> None:
    body = rss(("a", "A", "a")).encode()
    heads: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 200 OK\r\nETag: " + raw + b"\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    news = await start_news(allowed_private_hosts="127.0.0.0/8")
    feed = (await news.add(f"http://127.0.0.1:{port}/f")).feed
    assert (await news.refresh(feed.id)).feed.last_status == 200
    server.close()
    await server.wait_closed()
    assert len(heads) == 2
    assert b"if-none-match" not in heads[1].lower()
