"""Add a feed: read it once, then store it with its articles in one transaction."""

from __future__ import annotations

from dataclasses import dataclass, replace
from urllib.parse import urlsplit
from uuid import UUID

from wireroom_common.clock import Clock
from wireroom_common.db import Database
from wireroom_common.errors import ErrorKind, WireroomError, invalid
from wireroom_common.ids import new_id
from wireroom_common.outbox import emit
from wireroom_news.domain.articles import Document
from wireroom_news.domain.schedule import after_success
from wireroom_news.domain.urls import UrlRefusedError, feed_url
from wireroom_news.fetching.failures import FeedError
from wireroom_news.settings import NewsSettings
from wireroom_news.storage import audit_trail, feeds
from wireroom_news.storage.erasure import refuse_erased
from wireroom_news.storage.feeds import FeedRow, FetchRecord
from wireroom_news.usecases.article_lists import ArticleLists
from wireroom_news.usecases.ingest import ingest
from wireroom_news.usecases.read_feed import FeedReader, Reading
from wireroom_protos.events.v1 import events_pb2

_LONGEST_INTERVAL = 604_800


@dataclass(frozen=True)
class Added:
    """The feed as stored, and how many articles it brought; 0 if it was there already."""

    feed: FeedRow
    new_articles: int


class AddFeed:
    """Idempotent per tenant and URL. A feed that cannot be read is refused and leaves nothing behind."""

    def __init__(self, database: Database, reader: FeedReader, clock: Clock, settings: NewsSettings, lists: ArticleLists) -> None:
        self._database = database
        self._lists = lists
        self._reader = reader
        self._clock = clock
        self._settings = settings

    async def __call__(self, tenant_id: UUID, url: str, interval_seconds: int, *, actor: str) -> Added:
        """Raises INVALID with a code `feed_*`, `interval_invalid` or `feeds_too_many`."""
        interval = self._interval(interval_seconds)
        try:
            address = feed_url(url)
        except UrlRefusedError as error:
            raise invalid("feed_url_invalid", f"The address cannot be fetched: {error}.", field="url") from None
        async with self._database.tenant(tenant_id) as connection:
            existing = await feeds.find(connection, tenant_id, url=address)
            if existing is None and await feeds.count(connection, tenant_id) >= self._settings.max_feeds_per_tenant:
                raise self._full()
        if existing is not None:
            return Added(existing, 0)
        try:
            reading = await self._reader.read(address)
        except FeedError as error:
            raise error.as_refusal() from error
        if reading.document is None:
            raise FeedError("feed_http_status", "The feed's server sent no document.", status=reading.fetched.status).as_refusal()
        feed = FeedRow(
            tenant_id=tenant_id,
            id=new_id(),
            url=address,
            title=reading.title,
            state="active",
            interval_seconds=interval,
            next_fetch_at=after_success(reading.at, interval),
            last_fetch_at=reading.at,
            last_status=reading.fetched.status,
            last_error="",
            consecutive_failures=0,
            validators=reading.fetched.validators,
            created_at=self._clock.now(),
            lease_token=0,
        )
        return await self._store(feed, reading, reading.document, actor)

    async def _store(self, feed: FeedRow, reading: Reading, document: Document, actor: str) -> Added:
        tenant_id = feed.tenant_id
        async with self._database.tenant(tenant_id) as connection:
            await feeds.lock_tenant(connection, tenant_id)
            await refuse_erased(connection, tenant_id)
            existing = await feeds.find(connection, tenant_id, url=feed.url)
            if existing is not None:
                return Added(existing, 0)
            if await feeds.count(connection, tenant_id) >= self._settings.max_feeds_per_tenant:
                raise self._full()
            await feeds.insert(connection, feed)
            added = events_pb2.NewsFeedAdded(feed_id=str(feed.id), url=feed.url, interval_seconds=feed.interval_seconds)
            await emit(connection, added, tenant_id=tenant_id, subject=str(feed.id), actor=actor)
            # The host alone: addresses of feeds may hold secrets.
            await audit_trail.record(
                connection,
                "feed.added",
                tenant_id=tenant_id,
                subject=str(feed.id),
                actor=actor,
                host=urlsplit(feed.url).hostname or "",
            )
            result = await ingest(
                connection, tenant_id, feed.id, document, fetched_at=reading.at, versions_kept=self._settings.versions_kept
            )
            fetch = FetchRecord(
                reading.at,
                reading.fetched.status,
                "",
                reading.milliseconds,
                reading.fetched.wire_bytes,
                result.new,
                result.changed,
            )
            await feeds.record(connection, tenant_id, feed.id, fetch, keep=self._settings.fetches_kept)
            fetched = events_pb2.NewsFeedFetched(
                feed_id=str(feed.id),
                status=fetch.status,
                milliseconds=fetch.milliseconds,
                bytes=fetch.size,
                new_articles=result.new,
                changed_articles=result.changed,
                merged_articles=result.merged,
            )
            await emit(connection, fetched, tenant_id=tenant_id, subject=str(feed.id))
            stored = await feeds.find(connection, tenant_id, feed_id=feed.id)
        await self._lists.changed_here(tenant_id)
        return Added(stored or replace(feed, articles=result.new), result.new)

    def _interval(self, seconds: int) -> int:
        if seconds == 0:
            return self._settings.default_interval_seconds
        least = self._settings.min_interval_seconds
        if not least <= seconds <= _LONGEST_INTERVAL:
            raise invalid(
                "interval_invalid",
                f"The interval must be between {least} and {_LONGEST_INTERVAL} seconds.",
                field="interval_seconds",
            )
        return seconds

    def _full(self) -> WireroomError:
        return WireroomError(
            ErrorKind.CONFLICT,
            "feeds_too_many",
            f"The tenant has {self._settings.max_feeds_per_tenant} feeds, the most it may have.",
        )
