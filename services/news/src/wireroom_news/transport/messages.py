"""Stored rows → contract messages."""

from __future__ import annotations

from datetime import datetime

from google.protobuf.timestamp_pb2 import Timestamp

from wireroom_news.storage.articles import ArticleVersion
from wireroom_news.storage.feeds import FeedRow
from wireroom_protos.news.v1 import news_pb2

_STATES = {"active": news_pb2.FEED_STATE_ACTIVE, "degraded": news_pb2.FEED_STATE_DEGRADED}


def feed_message(feed: FeedRow) -> news_pb2.Feed:
    """A feed."""
    return news_pb2.Feed(
        id=str(feed.id),
        url=feed.url,
        title=feed.title,
        state=_STATES[feed.state],
        interval_seconds=feed.interval_seconds,
        next_fetch_at=_timestamp(feed.next_fetch_at),
        last_fetch_at=_timestamp(feed.last_fetch_at) if feed.last_fetch_at else None,
        last_status=feed.last_status,
        last_error=feed.last_error,
        consecutive_failures=feed.consecutive_failures,
        articles=feed.articles,
        created_at=_timestamp(feed.created_at),
    )


def article_message(version: ArticleVersion) -> news_pb2.Article:
    """One version of an article."""
    return news_pb2.Article(
        id=str(version.article_id),
        version=version.version,
        feed_id=str(version.feed_id),
        url=version.url,
        title=version.title,
        text=version.text,
        summary=version.summary,
        author=version.author,
        published_at=_timestamp(version.published_at),
        fetched_at=_timestamp(version.fetched_at),
        content_sha256=version.content_sha256,
    )


def _timestamp(moment: datetime) -> Timestamp:
    timestamp = Timestamp()
    timestamp.FromDatetime(moment)
    return timestamp
