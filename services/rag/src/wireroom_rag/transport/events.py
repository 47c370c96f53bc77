"""What the news service tells: articles that come, change and go."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from uuid import UUID

from google.protobuf.timestamp_pb2 import Timestamp
from sqlalchemy.ext.asyncio import AsyncConnection

from wireroom_common.bus import Envelope, Subscription, event_type
from wireroom_common.db import Database
from wireroom_protos.events.v1 import events_pb2
from wireroom_rag.adapters.articles_sql import ArticleVersion, receive_article, remove_feed
from wireroom_rag.adapters.connections import as_worker

CONSUMER = "rag.articles"

_INGESTED = event_type(events_pb2.NewsArticleIngested())
_UPDATED = event_type(events_pb2.NewsArticleUpdated())
_REMOVED = event_type(events_pb2.NewsFeedRemoved())


class ArticleEvents:
    """The consumer `rag.articles`. A malformed event raises and ends as a dead letter."""

    def __init__(self, database: Database, wake: Callable[[], None]) -> None:
        self._database = database
        self._wake = wake

    def subscription(self) -> Subscription:
        """For the service's declaration."""
        return Subscription(CONSUMER, work=self.handle, database=self._database)

    async def handle(self, connection: AsyncConnection, envelope: Envelope) -> None:
        """One event, on its transaction; events of other types are not ours."""
        if envelope.tenant_id is None:
            msg = f"The event {envelope.id} ({envelope.type}) has no tenant."
            raise ValueError(msg)
        await as_worker(connection)
        if envelope.type == _INGESTED:
            ingested = envelope.payload(events_pb2.NewsArticleIngested)
            await self._receive(connection, _article(envelope.tenant_id, ingested, ingested.version))
        elif envelope.type == _UPDATED:
            updated = envelope.payload(events_pb2.NewsArticleUpdated)
            await self._receive(connection, _article(envelope.tenant_id, updated, updated.new_version))
        elif envelope.type == _REMOVED:
            await remove_feed(connection, envelope.tenant_id, UUID(envelope.payload(events_pb2.NewsFeedRemoved).feed_id))

    async def _receive(self, connection: AsyncConnection, article: ArticleVersion) -> None:
        if await receive_article(connection, article):
            self._wake()


def _article(
    tenant_id: UUID, event: events_pb2.NewsArticleIngested | events_pb2.NewsArticleUpdated, version: int
) -> ArticleVersion:
    return ArticleVersion(
        tenant_id=tenant_id,
        article_id=UUID(event.article_id),
        version=version,
        feed_id=UUID(event.feed_id),
        title=event.title,
        url=event.url,
        sha256=event.content_sha256,
        published_at=_time(event.published_at) if event.HasField("published_at") else None,
    )


def _time(timestamp: Timestamp) -> datetime:
    return timestamp.ToDatetime(tzinfo=UTC)
