"""Fetch, parse and identify one feed document; no transaction is open meanwhile."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import datetime

from prometheus_client import CollectorRegistry, Counter, Histogram

from wireroom_common.clock import Clock
from wireroom_news.domain.articles import Document, identify
from wireroom_news.fetching.client import FeedClient, Fetched, Validators
from wireroom_news.fetching.failures import FeedError
from wireroom_news.parsing.process import ParserProcess


@dataclass(frozen=True)
class Reading:
    """What a fetch brought. `document` is None when nothing had changed."""

    fetched: Fetched
    document: Document | None
    title: str
    at: datetime
    milliseconds: int


class FeedReader:
    """The way from an address to identified entries. Raises FeedError."""

    def __init__(self, client: FeedClient, parser: ParserProcess, clock: Clock, registry: CollectorRegistry) -> None:
        self._client = client
        self._parser = parser
        self._clock = clock
        self._outcomes = Counter("wireroom_news_fetches", "Feed fetches by outcome.", ["outcome"], registry=registry)
        self._seconds = Histogram("wireroom_news_fetch_seconds", "Fetch and parse of one feed.", registry=registry)

    async def read(self, url: str, validators: Validators | None = None) -> Reading:
        """GET `url` once and read it."""
        started = self._clock.monotonic()
        try:
            fetched = await self._client.fetch(url, validators)
            at = self._clock.now()
            document, title = None, ""
            if not fetched.not_modified:
                feed = await self._parser.parse(fetched.body, url=fetched.url, content_type=fetched.content_type, fetched_at=at)
                document, title = await asyncio.to_thread(identify, feed), feed.title
        except FeedError as error:
            self._outcomes.labels(error.code).inc()
            raise
        finally:
            self._seconds.observe(self._clock.monotonic() - started)
        self._outcomes.labels("not_modified" if fetched.not_modified else "ok").inc()
        return Reading(fetched, document, title, at, int((self._clock.monotonic() - started) * 1000))
