"""Bring a feed's document into the tenant's articles."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from google.protobuf.timestamp_pb2 import Timestamp
from sqlalchemy.ext.asyncio import AsyncConnection

from wireroom_common.ids import new_id
from wireroom_common.outbox import emit
from wireroom_news.domain.articles import Document, Identified, merge
from wireroom_news.storage import articles
from wireroom_news.storage.articles import ArticleHead, ArticleVersion, StoredKey
from wireroom_protos.events.v1 import events_pb2


@dataclass(frozen=True)
class Ingested:
    """Articles that were new, that changed, and that turned out to be another one."""

    new: int = 0
    changed: int = 0
    merged: int = 0


async def ingest(
    connection: AsyncConnection, tenant_id: UUID, feed_id: UUID, document: Document, *, fetched_at: datetime, versions_kept: int
) -> Ingested:
    """Store what the document adds and changes, with its events. The caller holds the tenant's lock and owns the transaction.

    An article's content comes from one feed, the oldest of those that carry it: so two feeds that word it differently
    do not overwrite each other, whichever is fetched first.
    """
    known = await _Known.load(connection, tenant_id, feed_id, document)
    new: list[ArticleVersion] = []
    changed: list[tuple[int, ArticleVersion]] = []
    joined, merged = await _joined(connection, tenant_id, known, document.items)
    for survivor, item in joined:
        if survivor is None:
            version = _version(
                item, article_id=new_id(), number=1, feed_id=feed_id, published_at=fetched_at, fetched_at=fetched_at
            )
            new.append(version)
        else:
            version = _version(
                item,
                article_id=survivor.id,
                number=survivor.version + 1,
                feed_id=feed_id,
                published_at=survivor.published_at,
                fetched_at=fetched_at,
            )
            rewritten = feed_id == survivor.feed_id and version.content_sha256 != survivor.content_sha256
            if rewritten or feed_id < survivor.feed_id:
                changed.append((survivor.version, version))
        known.point(item.keys, version.article_id)
    await articles.insert(connection, tenant_id, new)
    await articles.update(connection, tenant_id, [version for _, version in changed], keep=versions_kept)
    await articles.put_keys(connection, tenant_id, known.changes())
    await _announce(connection, tenant_id, new, changed)
    return Ingested(len(new), len(changed), merged)


class _Known:
    """The stored keys and articles that a document touches."""

    def __init__(
        self, feed_id: UUID, stored: Iterable[StoredKey], heads: dict[UUID, ArticleHead], shared: frozenset[str]
    ) -> None:
        self._feed_id = feed_id
        self.heads = heads
        self._targets: dict[str, set[UUID]] = defaultdict(set)
        self._own: dict[str, UUID | None] = {}
        self._dead = set(shared)
        self._wanted: dict[str, UUID | None] = dict.fromkeys(shared)
        for key in stored:
            if key.feed_id == feed_id:
                self._own[key.key] = key.article_id
            if key.article_id is None:
                self._dead.add(key.key)
            else:
                self._targets[key.key].add(key.article_id)

    @classmethod
    async def load(cls, connection: AsyncConnection, tenant_id: UUID, feed_id: UUID, document: Document) -> _Known:
        keys = {key for item in document.items for key in item.keys} | document.shared_keys
        stored = await articles.stored_keys(connection, tenant_id, feed_id, keys)
        heads = await articles.heads(connection, tenant_id, {key.article_id for key in stored if key.article_id is not None})
        return cls(feed_id, stored, heads, document.shared_keys)

    def articles_of(self, keys: Iterable[str]) -> set[UUID]:
        return {target for key in keys if key not in self._dead for target in self._targets[key] if target in self.heads}

    def point(self, keys: Iterable[str], article_id: UUID) -> None:
        for key in keys:
            if key not in self._dead:
                self._wanted[key] = article_id

    def changes(self) -> list[StoredKey]:
        return [
            StoredKey(self._feed_id, key, target)
            for key, target in self._wanted.items()
            if key not in self._own or self._own[key] != target
        ]


async def _joined(
    connection: AsyncConnection, tenant_id: UUID, known: _Known, items: Iterable[Identified]
) -> tuple[list[tuple[ArticleHead | None, Identified]], int]:
    """Each item with the stored article it is, and how many articles went up in others.

    Items that lead to the same article become one; articles that one item joins are merged.
    """
    fresh: list[Identified] = []
    groups: list[tuple[set[UUID], list[Identified]]] = []
    for item in items:
        targets = known.articles_of(item.keys)
        if not targets:
            fresh.append(item)
            continue
        touching = [group for group in groups if group[0] & targets]
        groups = [group for group in groups if not group[0] & targets]
        groups.append(
            (targets.union(*(group[0] for group in touching)), [item, *(member for group in touching for member in group[1])])
        )
    result: list[tuple[ArticleHead | None, Identified]] = [(None, item) for item in fresh]
    merged = 0
    for targets, members in groups:
        survivor = min((known.heads[target] for target in targets), key=lambda head: (head.feed_id, head.id))
        if len(targets) > 1:
            await articles.merge(connection, tenant_id, targets - {survivor.id}, survivor.id)
            merged += len(targets) - 1
        result.append((survivor, merge(members)))
    return result, merged


async def _announce(
    connection: AsyncConnection, tenant_id: UUID, new: Iterable[ArticleVersion], changed: Iterable[tuple[int, ArticleVersion]]
) -> None:
    for version in new:
        ingested = events_pb2.NewsArticleIngested(
            article_id=str(version.article_id),
            version=version.version,
            feed_id=str(version.feed_id),
            url=version.url,
            title=version.title,
            published_at=_timestamp(version.published_at),
            content_sha256=version.content_sha256,
        )
        await emit(connection, ingested, tenant_id=tenant_id, subject=str(version.article_id))
    for old, version in changed:
        updated = events_pb2.NewsArticleUpdated(
            article_id=str(version.article_id),
            old_version=old,
            new_version=version.version,
            feed_id=str(version.feed_id),
            url=version.url,
            title=version.title,
            published_at=_timestamp(version.published_at),
            content_sha256=version.content_sha256,
        )
        await emit(connection, updated, tenant_id=tenant_id, subject=str(version.article_id))


def _version(
    item: Identified, *, article_id: UUID, number: int, feed_id: UUID, published_at: datetime, fetched_at: datetime
) -> ArticleVersion:
    entry = item.entry
    return ArticleVersion(
        article_id=article_id,
        version=number,
        feed_id=feed_id,
        url=entry.url,
        title=entry.title,
        text=entry.text,
        summary=entry.summary,
        author=entry.author,
        published_at=entry.published_at or published_at,
        fetched_at=fetched_at,
        content_sha256=entry.content_sha256(),
    )


def _timestamp(moment: datetime) -> Timestamp:
    timestamp = Timestamp()
    timestamp.FromDatetime(moment)
    return timestamp
