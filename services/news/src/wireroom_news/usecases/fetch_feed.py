"""Fetch a leased feed and store the result, or the failure, in one transaction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp
from sqlalchemy.ext.asyncio import AsyncConnection

from wireroom_common.clock import Clock
from wireroom_common.db import Database
from wireroom_common.outbox import emit
from wireroom_news.domain.schedule import FAILURES_UNTIL_DEGRADED, after_failure, after_success
from wireroom_news.fetching.failures import FeedError
from wireroom_news.settings import NewsSettings
from wireroom_news.storage import feeds
from wireroom_news.storage.feeds import FeedRow, FetchRecord
from wireroom_news.usecases.article_lists import ArticleLists
from wireroom_news.usecases.ingest import Ingested, ingest
from wireroom_news.usecases.read_feed import FeedReader, Reading
from wireroom_protos.events.v1 import events_pb2


@dataclass(frozen=True)
class FetchOutcome:
    """What a fetch changed. `stored` is False when the lease was lost meanwhile: then it changed nothing."""

    stored: bool
    new_articles: int = 0
    changed_articles: int = 0
    not_modified: bool = False


class FetchFeed:
    """A fetch that dies half-way leaves nothing but its lease, which runs out."""

    def __init__(self, database: Database, reader: FeedReader, clock: Clock, settings: NewsSettings, lists: ArticleLists) -> None:
        self._database = database
        self._lists = lists
        self._reader = reader
        self._clock = clock
        self._settings = settings

    async def __call__(self, feed: FeedRow) -> FetchOutcome:
        """`feed` as the lease returned it. A failed fetch is a stored result too, not an exception."""
        started = self._clock.monotonic()
        try:
            reading = await self._reader.read(feed.url, feed.validators)
        except FeedError as error:
            return await self._store_failure(feed, error, int((self._clock.monotonic() - started) * 1000))
        return await self._store(feed, reading)

    async def _store(self, feed: FeedRow, reading: Reading) -> FetchOutcome:
        async with self._database.tenant(feed.tenant_id) as connection:
            await feeds.lock_tenant(connection, feed.tenant_id)
            stored = await feeds.conclude(
                connection,
                feed,
                title=reading.title or feed.title,
                state="active",
                next_fetch_at=after_success(reading.at, feed.interval_seconds),
                last_fetch_at=reading.at,
                last_status=reading.fetched.status,
                last_error="",
                consecutive_failures=0,
                etag=reading.fetched.validators.etag,
                last_modified=reading.fetched.validators.last_modified,
            )
            if not stored:
                return FetchOutcome(stored=False)
            if feed.state == "degraded":
                await self._emit(connection, feed, events_pb2.NewsFeedRecovered(feed_id=str(feed.id)))
            result = Ingested()
            if reading.document is not None:
                result = await ingest(
                    connection,
                    feed.tenant_id,
                    feed.id,
                    reading.document,
                    fetched_at=reading.at,
                    versions_kept=self._settings.versions_kept,
                )
            fetch = FetchRecord(
                reading.at,
                reading.fetched.status,
                "",
                reading.milliseconds,
                reading.fetched.wire_bytes,
                result.new,
                result.changed,
                not_modified=reading.fetched.not_modified,
            )
            await self._record(connection, feed, fetch, result.merged)
        if result.new or result.changed or result.merged:
            await self._lists.changed_here(feed.tenant_id)
        return FetchOutcome(True, result.new, result.changed, reading.fetched.not_modified)

    async def _store_failure(self, feed: FeedRow, error: FeedError, milliseconds: int) -> FetchOutcome:
        now = self._clock.now()
        failures = feed.consecutive_failures + 1
        degraded = failures >= FAILURES_UNTIL_DEGRADED
        next_try = after_failure(now, feed.interval_seconds, failures, error.retry_after)
        async with self._database.tenant(feed.tenant_id) as connection:
            await feeds.lock_tenant(connection, feed.tenant_id)
            stored = await feeds.conclude(
                connection,
                feed,
                state="degraded" if degraded else feed.state,
                next_fetch_at=next_try,
                last_fetch_at=now,
                last_status=error.status,
                last_error=f"{error.code}: {error.detail}",
                consecutive_failures=failures,
            )
            if not stored:
                return FetchOutcome(stored=False)
            if degraded and feed.state != "degraded":
                moment = Timestamp()
                moment.FromDatetime(next_try)
                event = events_pb2.NewsFeedDegraded(feed_id=str(feed.id), reason=error.code, failures=failures, next_try=moment)
                await self._emit(connection, feed, event)
            await self._record(connection, feed, FetchRecord(now, error.status, error.code, milliseconds, 0))
        return FetchOutcome(stored=True)

    async def _record(self, connection: AsyncConnection, feed: FeedRow, fetch: FetchRecord, merged: int = 0) -> None:
        await feeds.record(connection, feed.tenant_id, feed.id, fetch, keep=self._settings.fetches_kept)
        event = events_pb2.NewsFeedFetched(
            feed_id=str(feed.id),
            status=fetch.status,
            milliseconds=fetch.milliseconds,
            bytes=fetch.size,
            new_articles=fetch.new_articles,
            changed_articles=fetch.changed_articles,
            not_modified=fetch.not_modified,
            merged_articles=merged,
        )
        await self._emit(connection, feed, event)

    async def _emit(self, connection: AsyncConnection, feed: FeedRow, event: Any) -> None:
        await emit(connection, event, tenant_id=feed.tenant_id, subject=str(feed.id))
