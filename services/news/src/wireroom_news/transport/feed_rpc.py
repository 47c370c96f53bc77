"""FeedService."""

from __future__ import annotations

from typing import Any

from wireroom_common.clock import Clock
from wireroom_common.db import Database
from wireroom_common.errors import not_found
from wireroom_common.ids import parse_id
from wireroom_common.outbox import emit
from wireroom_common.principal import current_principal
from wireroom_news.storage import audit_trail, feeds
from wireroom_news.transport import pages
from wireroom_news.transport.messages import feed_message
from wireroom_news.usecases.add_feed import AddFeed
from wireroom_news.usecases.article_lists import ArticleLists
from wireroom_news.usecases.refresh import Refresh
from wireroom_protos.events.v1 import events_pb2
from wireroom_protos.news.v1 import news_pb2, news_pb2_grpc

MANAGE = "feeds:manage"
READ = "news:read"


class FeedServicer(news_pb2_grpc.FeedServiceServicer):
    """Reading needs `news:read`, changing `feeds:manage`."""

    def __init__(self, database: Database, add_feed: AddFeed, refresh: Refresh, clock: Clock, lists: ArticleLists) -> None:
        self._database = database
        self._lists = lists
        self._add_feed = add_feed
        self._refresh = refresh
        self._clock = clock

    async def AddFeed(self, request: news_pb2.AddFeedRequest, context: Any) -> news_pb2.AddFeedResponse:  # noqa: ARG002, N802 - as generated
        principal = current_principal()
        principal.require(MANAGE)
        added = await self._add_feed(principal.tenant(), request.url, request.interval_seconds, actor=principal.subject)
        return news_pb2.AddFeedResponse(feed=feed_message(added.feed), new_articles=added.new_articles)

    async def GetFeed(self, request: news_pb2.GetFeedRequest, context: Any) -> news_pb2.GetFeedResponse:  # noqa: ARG002, N802 - as generated
        principal = current_principal()
        principal.require(READ)
        tenant_id, feed_id = principal.tenant(), parse_id(request.id, "feed")
        async with self._database.tenant(tenant_id) as connection:
            feed = await feeds.find(connection, tenant_id, feed_id=feed_id)
        if feed is None:
            raise not_found("feed")
        return news_pb2.GetFeedResponse(feed=feed_message(feed))

    async def ListFeeds(self, request: news_pb2.ListFeedsRequest, context: Any) -> news_pb2.ListFeedsResponse:  # noqa: ARG002, N802 - as generated
        principal = current_principal()
        principal.require(READ)
        tenant_id, size = principal.tenant(), pages.page_size(request.page_size)
        after = pages.decode_id(request.page_token)
        async with self._database.tenant(tenant_id) as connection:
            found = await feeds.page(connection, tenant_id, after=after, limit=size + 1)
        token = pages.encode(str(found[size - 1].id)) if len(found) > size else ""
        return news_pb2.ListFeedsResponse(feeds=[feed_message(feed) for feed in found[:size]], next_page_token=token)

    async def RemoveFeed(self, request: news_pb2.RemoveFeedRequest, context: Any) -> news_pb2.RemoveFeedResponse:  # noqa: ARG002, N802 - as generated
        principal = current_principal()
        principal.require(MANAGE)
        tenant_id, feed_id = principal.tenant(), parse_id(request.id, "feed")
        async with self._database.tenant(tenant_id) as connection:
            await feeds.lock_tenant(connection, tenant_id)
            if not await feeds.remove(connection, tenant_id, feed_id, self._clock.now()):
                raise not_found("feed")
            removed = events_pb2.NewsFeedRemoved(feed_id=str(feed_id))
            await emit(connection, removed, tenant_id=tenant_id, subject=str(feed_id), actor=principal.subject)
            await audit_trail.record(
                connection, "feed.removed", tenant_id=tenant_id, subject=str(feed_id), actor=principal.subject
            )
        await self._lists.changed_here(tenant_id)
        return news_pb2.RemoveFeedResponse()

    async def RefreshFeed(self, request: news_pb2.RefreshFeedRequest, context: Any) -> news_pb2.RefreshFeedResponse:  # noqa: ARG002, N802 - as generated
        principal = current_principal()
        principal.require(MANAGE)
        tenant_id, feed_id = principal.tenant(), parse_id(request.id, "feed")
        outcome = await self._refresh.now(tenant_id, feed_id)
        async with self._database.tenant(tenant_id) as connection:
            feed = await feeds.find(connection, tenant_id, feed_id=feed_id)
        if feed is None:
            raise not_found("feed")
        return news_pb2.RefreshFeedResponse(
            feed=feed_message(feed),
            new_articles=outcome.new_articles,
            changed_articles=outcome.changed_articles,
            not_modified=outcome.not_modified,
        )
