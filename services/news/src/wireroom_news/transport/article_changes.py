"""The consumer `news.lists`: after each change of a tenant's articles no list that was kept before it is given again."""

from __future__ import annotations

from sqlalchemy.ext.asyncio import AsyncConnection

from wireroom_common.bus import Envelope, Subscription, event_type
from wireroom_common.db import Database
from wireroom_news.usecases.article_lists import ArticleLists
from wireroom_protos.events.v1 import events_pb2

CONSUMER = "news.lists"
_FETCHED = event_type(events_pb2.NewsFeedFetched())


def article_changes(database: Database, lists: ArticleLists) -> Subscription:
    """Fetches that changed articles, and feeds that were removed."""

    async def handle(connection: AsyncConnection, envelope: Envelope) -> None:
        del connection
        if envelope.tenant_id is None:
            return
        if envelope.type == _FETCHED:
            fetched = envelope.payload(events_pb2.NewsFeedFetched)
            if not (fetched.new_articles or fetched.changed_articles or fetched.merged_articles):
                return
        await lists.changed(envelope.tenant_id)

    return Subscription(CONSUMER, work=handle, database=database)
