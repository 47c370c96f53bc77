from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_common.principal import PrincipalKind
from wireroom_common.testing import eventually
from wireroom_protos.events.v1 import events_pb2
from wireroom_protos.news.v1 import news_pb2
from wireroom_protos.rag.v1 import rag_pb2


def timestamp(day: int) -> Timestamp:
    value = Timestamp()
    value.FromDatetime(datetime(2026, 3, day, tzinfo=UTC))
    return value


class Story:
    """An article of the scripted news service, and the events about it."""

    def __init__(self, rag: Any, user: Any, feed_id: UUID | None = None) -> None:
        self.rag = rag
        self.user = user
        self.id = uuid4()
        self.feed_id = feed_id or uuid4()

    def publish(self, version: int, title: str, text: str, day: int = 1) -> None:
        self.rag.news.articles[self.user.tenant_id, self.id, version] = news_pb2.Article(
            id=str(self.id),
            version=version,
            feed_id=str(self.feed_id),
            url=f"https://news.example/{self.id}",
            title=title,
            text=text,
            published_at=timestamp(day),
        )

    async def ingested(self, version: int = 1, day: int = 1) -> None:
        event = events_pb2.NewsArticleIngested(
            article_id=str(self.id), version=version, feed_id=str(self.feed_id), title="as announced", published_at=timestamp(day)
        )
        await self.rag.deliver(self.user.tenant_id, event)

    async def updated(self, version: int) -> None:
        event = events_pb2.NewsArticleUpdated(
            article_id=str(self.id), old_version=version - 1, new_version=version, feed_id=str(self.feed_id), title="as announced"
        )
        await self.rag.deliver(self.user.tenant_id, event)

    async def found(self, query: str, **request: Any) -> list[rag_pb2.Passage]:
        return await self.rag.retrieve(self.user, query, **request)


async def test_ingested_article_is_searchable_and_cited_with_its_address(rag: Any) -> None:
    story = Story(rag, rag.user())
    story.publish(1, "Volcano wakes on Isla Verde", "Ash rose nine kilometres on Tuesday morning.")
    await story.ingested()
    (passage,) = await eventually(lambda: story.found("volcano ash"), what="the article in the index")
    assert (passage.kind, passage.title) == (rag_pb2.SOURCE_KIND_ARTICLE, "Volcano wakes on Isla Verde")
    assert passage.text == "Volcano wakes on Isla Verde\n\nAsh rose nine kilometres on Tuesday morning."
    assert (passage.url, passage.published_at) == (f"https://news.example/{story.id}", timestamp(1))
    (caller,) = rag.news.callers
    assert (caller.kind, caller.subject, caller.tenant_id) == (PrincipalKind.SERVICE, "rag", story.user.tenant_id)
    assert await rag.events() == ["rag.document.indexed"]


async def test_versions_that_arrive_out_of_order_never_go_back(rag: Any) -> None:
    story = Story(rag, rag.user())
    for version in (1, 2, 3):
        story.publish(version, "Election in Norrland", f"Count number {version} gives {version}0 seats.")
    await story.ingested()
    await eventually(lambda: story.found("seats"), what="version 1 in the index")
    await story.updated(3)
    await story.updated(2)
    await story.ingested()

    async def newest() -> bool:
        return [passage.version for passage in await story.found("seats")] == [3]

    await eventually(newest, what="version 3 alone in the index")
    rows = await rag.rows(story.user.tenant_id, "SELECT version, state FROM document_versions ORDER BY version")
    assert [tuple(row) for row in rows] == [(1, "indexed"), (3, "indexed")]
    old = rag_pb2.Span(document_id=str(story.id), version=1, start=0, end=40, quote="Count number 1")
    assert [citation.verified for citation in await rag.verify(story.user, old)] == [True]


async def test_removed_feed_takes_its_articles_and_no_others(rag: Any) -> None:
    user = rag.user()
    gone, kept = Story(rag, user), Story(rag, user)
    for story in (gone, kept):
        story.publish(1, "Badgers", "Badgers dig at night.")
        await story.ingested()

    async def both() -> bool:
        return len(await kept.found("badgers")) == 2

    await eventually(both, what="both articles in the index")
    await rag.deliver(user.tenant_id, events_pb2.NewsFeedRemoved(feed_id=str(gone.feed_id)))
    assert [passage.document_id for passage in await kept.found("badgers")] == [str(kept.id)]
    assert (await rag.rows(user.tenant_id, "SELECT chunks FROM index_statistics")) == [(1,)]


async def test_article_that_the_news_service_no_longer_has_is_forgotten(rag: Any) -> None:
    story = Story(rag, rag.user())
    await story.ingested()

    async def forgotten() -> bool:
        return bool(rag.news.callers) and await rag.rows(story.user.tenant_id, "SELECT id FROM documents") == []

    await eventually(forgotten, what="the article forgotten")


@pytest.mark.parametrize("error", [WireroomError(ErrorKind.UNAVAILABLE, "away", "Away."), RuntimeError("boom")])
async def test_article_is_tried_again_when_the_news_service_fails(rag: Any, error: Exception) -> None:
    story = Story(rag, rag.user())
    story.publish(1, "Otters", "Otters hold hands.")
    rag.news.fail_with.append(error)
    await story.ingested()
    assert await eventually(lambda: story.found("otters"), what="the article in the index")
    assert len(rag.news.callers) == 2


async def test_since_leaves_out_older_articles_and_kinds_are_filtered(rag: Any) -> None:
    user = rag.user()
    await rag.index(user, "whale.txt", b"A whale was seen near the pier.")
    for day in (1, 20):
        story = Story(rag, user)
        story.publish(1, f"Whale on day {day}", "A whale was seen.", day)
        await story.ingested(day=day)

    async def all_found() -> bool:
        return len(await rag.retrieve(user, "whale")) == 3

    await eventually(all_found, what="three passages")
    recent = await rag.retrieve(user, "whale", since=timestamp(10), kinds=[rag_pb2.SOURCE_KIND_ARTICLE])
    assert [passage.title for passage in recent] == ["Whale on day 20"]
    documents = await rag.retrieve(user, "whale", kinds=[rag_pb2.SOURCE_KIND_DOCUMENT])
    assert [passage.title for passage in documents] == ["whale.txt"]


async def test_a_hundred_articles_are_each_indexed_once(rag: Any) -> None:
    user = rag.user()
    for number in range(100):
        story = Story(rag, user)
        story.publish(1, f"Bulletin {number}", f"Station {number} reports calm seas and light wind from the west this evening.")
        await story.ingested()

    async def states() -> bool:
        rows = await rag.rows(user.tenant_id, "SELECT state, count(*) FROM document_versions GROUP BY state")
        return [tuple(row) for row in rows] == [("indexed", 100)]

    await eventually(states, within=60, what="all articles indexed")
    assert (await rag.rows(user.tenant_id, "SELECT chunks FROM index_statistics")) == [(100,)]
    assert (await rag.events()).count("rag.document.indexed") == 100
    (best, *_) = await rag.retrieve(user, "Bulletin 77 station 77")
    assert best.title == "Bulletin 77"
