"""The consumer `news.erasure`: what this service holds of a user or a tenant."""

from __future__ import annotations

from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from wireroom_common.bus import Envelope, Subscription
from wireroom_common.db import Database
from wireroom_common.outbox import emit
from wireroom_news.storage.erasure import erase_tenant
from wireroom_news.usecases.article_lists import ArticleLists
from wireroom_protos.events.v1 import events_pb2

CONSUMER = "news.erasure"


def erasure(database: Database, lists: ArticleLists) -> Subscription:
    """A malformed event raises and ends as a dead letter."""

    async def handle(connection: AsyncConnection, envelope: Envelope) -> None:
        if envelope.tenant_id is None:
            msg = f"The event {envelope.id} ({envelope.type}) has no tenant."
            raise ValueError(msg)
        requested = envelope.payload(events_pb2.PrivacyErasureRequested)
        # Of a user nothing is held: feeds name nobody.
        counts = {"feeds": 0, "articles": 0}
        if not requested.user_id:
            counts = await erase_tenant(connection, envelope.tenant_id, UUID(requested.erasure_id))
            await lists.changed(envelope.tenant_id)
        done = events_pb2.PrivacyErasurePartDone(erasure_id=requested.erasure_id, part="news", counts=counts)
        await emit(connection, done, tenant_id=envelope.tenant_id, subject=requested.erasure_id)

    return Subscription(CONSUMER, work=handle, database=database)
