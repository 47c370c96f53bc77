"""What is erased of feeds and articles: all of a tenant's, none of a user's."""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

import pytest

from wireroom_common.bus import Envelope, event_type
from wireroom_common.clock import SystemClock
from wireroom_common.errors import WireroomError
from wireroom_common.ids import new_id
from wireroom_protos.events.v1 import events_pb2


async def erase(news: Any, tenant_id: UUID, user: str) -> events_pb2.PrivacyErasurePartDone:
    payload = events_pb2.PrivacyErasureRequested(erasure_id=str(uuid4()), user_id=user)
    envelope = Envelope(
        id=new_id(),
        source="auth",
        type=event_type(payload),
        time=SystemClock().now(),
        subject="",
        data=payload.SerializeToString(),
        tenant_id=tenant_id,
    )
    subscription = next(entry for entry in news.service.subscriptions if entry.consumer == "news.erasure")
    async with news.database.tenant(tenant_id) as connection:
        await subscription.work(connection, envelope)
    done = [event for name, event in await news.events() if name == "privacy.erasure.part_done"]
    return done[-1]


async def test_a_tenant_keeps_nothing_and_gets_nothing_more(start_news: Any, feed_server: Any, rss: Any) -> None:
    news = await start_news()
    feed_server.put("/f", rss(("a", "A", "one"), ("b", "B", "two")))
    await news.add(feed_server.url("/f"))
    tenant_id = news.tenant_id
    done = await erase(news, tenant_id, str(uuid4()))
    assert (done.part, dict(done.counts)) == ("news", {"feeds": 0, "articles": 0})
    assert len(await news.listed()) == 2
    # However often it is asked, it tells what went.
    for _ in range(2):
        done = await erase(news, tenant_id, "")
        assert dict(done.counts) == {"feeds": 1, "articles": 2}
    assert [await news.count(table) for table in ("feeds", "articles", "article_versions", "article_keys")] == [0, 0, 0, 0]
    with pytest.raises(WireroomError, match="tenant_erased"):
        await news.add(feed_server.url("/f"))
