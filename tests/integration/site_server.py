"""A local news site: an RSS feed whose items the tests publish, and pages that misbehave."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from xml.sax.saxutils import escape


@dataclass(frozen=True)
class Item:
    """One published item."""

    slug: str
    title: str
    text: str
    published: datetime


class Site:
    """Serves `/<feed>.xml` for every feed that has items, and fixed pages."""

    def __init__(self) -> None:
        self._feeds: dict[str, list[Item]] = {}
        self._lock = threading.Lock()
        self.base_url = ""

    @property
    def address(self) -> str:
        """host:port."""
        return self.base_url.removeprefix("http://")

    def publish(self, feed: str, slug: str, title: str, text: str) -> str:
        """Add (or change) an item of `feed`; returns the article's URL."""
        with self._lock:
            items = [item for item in self._feeds.get(feed, []) if item.slug != slug]
            self._feeds[feed] = [*items, Item(slug, title, text, datetime.now(UTC))]
        return self.article_url(slug)

    def article_url(self, slug: str) -> str:
        """Where an item's article is."""
        return f"{self.base_url}/articles/{slug}"

    def feed_url(self, feed: str) -> str:
        """Where a feed is."""
        return f"{self.base_url}/{feed}.xml"

    def answer(self, path: str) -> tuple[int, str, bytes]:
        """Status, content type and body for a path."""
        name = path.removeprefix("/").removesuffix(".xml")
        with self._lock:
            items = self._feeds.get(name)
        if items is not None:
            return 200, "application/rss+xml", self._rss(name, items).encode()
        if path == "/page.html":
            return 200, "text/html", b"<!doctype html><title>No feed</title><p>Just a page."
        if path == "/huge.xml":
            return 200, "application/rss+xml", b"<rss><channel>" + b"x" * 10_000_000
        return 404, "text/plain", b"not here"

    def _rss(self, name: str, items: list[Item]) -> str:
        entries = "".join(
            f"<item><title>{escape(item.title)}</title><link>{self.article_url(item.slug)}</link>"
            f'<guid isPermaLink="false">{name}-{item.slug}</guid><pubDate>{format_datetime(item.published)}</pubDate>'
            f"<description>{escape(item.text)}</description></item>"
            for item in items
        )
        return f'<?xml version="1.0" encoding="UTF-8"?><rss version="2.0"><channel><title>{name}</title>{entries}</channel></rss>'


@contextmanager
def serving() -> Iterator[Site]:
    """A site on a free loopback port."""
    site = Site()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, media_type, body = site.answer(self.path)
            self.send_response(status)
            self.send_header("Content-Type", media_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            try:
                self.wfile.write(body)
            except OSError:
                # The reader stops at its limit: that is what the huge page is for.
                self.close_connection = True

        def log_message(self, *_arguments: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    site.base_url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield site
    finally:
        server.shutdown()
        thread.join(10)
        server.server_close()
