"""The `feeds` and `feed_fetches` tables. Every function works in the caller's transaction."""

# ruff: noqa: S608 - statements are composed of names written in this module; every value is a parameter.

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.engine import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from wireroom_common.ids import new_id
from wireroom_news.fetching.client import Validators

_COLUMNS = (
    "f.tenant_id, f.id, f.url, f.title, f.state, f.interval_seconds, f.next_fetch_at, f.last_fetch_at, f.last_status, f.last_error,"
    " f.consecutive_failures, f.etag, f.last_modified, f.created_at, f.lease_token"
)
# How many articles of the tenant a feed owns.
_COUNT = (
    "(SELECT count(*) FROM articles a WHERE a.tenant_id = f.tenant_id AND a.feed_id = f.id AND a.merged_into IS NULL) AS articles"
)


@dataclass(frozen=True)
class FeedRow:
    """One feed. `lease_token` is the fencing token of whoever may write its next result."""

    tenant_id: UUID
    id: UUID
    url: str
    title: str
    state: str
    interval_seconds: int
    next_fetch_at: datetime
    last_fetch_at: datetime | None
    last_status: int
    last_error: str
    consecutive_failures: int
    validators: Validators
    created_at: datetime
    lease_token: int
    articles: int = 0


@dataclass(frozen=True)
class FetchRecord:
    """What happened in one fetch; `error` is '' or a code and a sentence."""

    fetched_at: datetime
    status: int
    error: str
    milliseconds: int
    size: int
    new_articles: int = 0
    changed_articles: int = 0
    not_modified: bool = False


async def lock_tenant(connection: AsyncConnection, tenant_id: UUID) -> None:
    """Until the transaction ends, no other one changes this tenant's feeds and articles. Taken before any row lock."""
    await connection.execute(
        text("SELECT pg_advisory_xact_lock(hashtextextended('news/' || :tenant, 0))"), {"tenant": str(tenant_id)}
    )


async def find(
    connection: AsyncConnection, tenant_id: UUID, *, feed_id: UUID | None = None, url: str | None = None
) -> FeedRow | None:
    """By id or by URL."""
    column = "id" if feed_id is not None else "url"
    row = (
        await connection.execute(
            text(f"SELECT {_COLUMNS}, {_COUNT} FROM feeds f WHERE f.tenant_id = :tenant AND f.{column} = :value"),
            {"tenant": tenant_id, "value": feed_id if feed_id is not None else url},
        )
    ).one_or_none()
    return _feed(row) if row else None


async def page(connection: AsyncConnection, tenant_id: UUID, *, after: UUID | None, limit: int) -> list[FeedRow]:
    """Feeds by id, which is by age."""
    rows = await connection.execute(
        text(
            f"SELECT {_COLUMNS}, {_COUNT} FROM feeds f WHERE f.tenant_id = :tenant AND (CAST(:after AS uuid) IS NULL OR f.id > :after)"
            " ORDER BY f.id LIMIT :limit"
        ),
        {"tenant": tenant_id, "after": after, "limit": limit},
    )
    return [_feed(row) for row in rows]


async def count(connection: AsyncConnection, tenant_id: UUID) -> int:
    """How many feeds the tenant has."""
    found = await connection.scalar(text("SELECT count(*) FROM feeds WHERE tenant_id = :tenant"), {"tenant": tenant_id})
    return int(found or 0)


async def insert(connection: AsyncConnection, feed: FeedRow) -> bool:
    """False if the tenant has this URL already."""
    result = await connection.execute(
        text(
            "INSERT INTO feeds (tenant_id, id, url, title, interval_seconds, next_fetch_at, last_fetch_at, last_status, etag,"
            " last_modified, created_at) VALUES (:tenant, :id, :url, :title, :interval, :next, :last, :status, :etag, :modified, :created)"
            " ON CONFLICT (tenant_id, url) DO NOTHING"
        ),
        {
            "tenant": feed.tenant_id,
            "id": feed.id,
            "url": feed.url,
            "title": feed.title,
            "interval": feed.interval_seconds,
            "next": feed.next_fetch_at,
            "last": feed.last_fetch_at,
            "status": feed.last_status,
            "etag": feed.validators.etag,
            "modified": feed.validators.last_modified,
            "created": feed.created_at,
        },
    )
    return result.rowcount == 1


async def lease_due(connection: AsyncConnection, now: datetime, *, seconds: float, limit: int) -> list[FeedRow]:
    """As the system role: take feeds that are due and belong to nobody, each with a new fencing token."""
    rows = await connection.execute(
        text(
            "UPDATE feeds f SET lease_token = f.lease_token + 1, leased_until = :until FROM ("
            " SELECT tenant_id, id FROM feeds WHERE next_fetch_at <= :now AND (leased_until IS NULL OR leased_until <= :now)"
            " ORDER BY next_fetch_at LIMIT :limit FOR UPDATE SKIP LOCKED) due"
            f" WHERE f.tenant_id = due.tenant_id AND f.id = due.id RETURNING {_COLUMNS}, 0 AS articles"
        ),
        {"now": now, "until": now + timedelta(seconds=seconds), "limit": limit},
    )
    return [_feed(row) for row in rows]


async def lease(connection: AsyncConnection, tenant_id: UUID, feed_id: UUID, now: datetime, *, seconds: float) -> FeedRow | None:
    """Take one feed, due or not; None while it belongs to another fetch."""
    row = (
        await connection.execute(
            text(
                "UPDATE feeds f SET lease_token = f.lease_token + 1, leased_until = :until WHERE f.tenant_id = :tenant AND f.id = :id"
                f" AND (f.leased_until IS NULL OR f.leased_until <= :now) RETURNING {_COLUMNS}, 0 AS articles"
            ),
            {"now": now, "until": now + timedelta(seconds=seconds), "tenant": tenant_id, "id": feed_id},
        )
    ).one_or_none()
    return _feed(row) if row else None


async def release(connection: AsyncConnection, feed: FeedRow) -> None:
    """Give a lease back without a result, if it is still held."""
    await connection.execute(
        text("UPDATE feeds SET leased_until = NULL WHERE tenant_id = :tenant AND id = :id AND lease_token = :token"),
        {"tenant": feed.tenant_id, "id": feed.id, "token": feed.lease_token},
    )


async def postpone(connection: AsyncConnection, feed: FeedRow, until: datetime) -> None:
    """Give a lease back without a result and try no sooner than `until`, if the lease is still held."""
    await connection.execute(
        text(
            "UPDATE feeds SET leased_until = NULL, next_fetch_at = GREATEST(next_fetch_at, :until)"
            " WHERE tenant_id = :tenant AND id = :id AND lease_token = :token"
        ),
        {"tenant": feed.tenant_id, "id": feed.id, "token": feed.lease_token, "until": until},
    )


async def conclude(connection: AsyncConnection, feed: FeedRow, **changes: Any) -> bool:
    """Write a fetch's result and end the lease. False, and nothing written, if the lease has passed to someone else.

    Columns: title, state, next_fetch_at, last_fetch_at, last_status, last_error, consecutive_failures, etag, last_modified.
    """
    assignments = ", ".join(f"{name} = :{name}" for name in changes)
    result = await connection.execute(
        text(
            f"UPDATE feeds SET {assignments}, leased_until = NULL"
            " WHERE tenant_id = :p_tenant AND id = :p_id AND lease_token = :p_token"
        ),
        {**changes, "p_tenant": feed.tenant_id, "p_id": feed.id, "p_token": feed.lease_token},
    )
    return result.rowcount == 1


async def record(connection: AsyncConnection, tenant_id: UUID, feed_id: UUID, fetch: FetchRecord, *, keep: int) -> None:
    """Add to the feed's history and drop what is beyond the newest `keep`."""
    await connection.execute(
        text(
            "INSERT INTO feed_fetches (tenant_id, feed_id, id, fetched_at, status, error, milliseconds, bytes, new_articles,"
            " changed_articles, not_modified) VALUES (:tenant, :feed, :id, :at, :status, :error, :ms, :bytes, :new, :changed, :same)"
        ),
        {
            "tenant": tenant_id,
            "feed": feed_id,
            "id": new_id(),
            "at": fetch.fetched_at,
            "status": fetch.status,
            "error": fetch.error,
            "ms": fetch.milliseconds,
            "bytes": fetch.size,
            "new": fetch.new_articles,
            "changed": fetch.changed_articles,
            "same": fetch.not_modified,
        },
    )
    await connection.execute(
        text(
            "DELETE FROM feed_fetches WHERE tenant_id = :tenant AND feed_id = :feed AND id <= (SELECT id FROM feed_fetches"
            " WHERE tenant_id = :tenant AND feed_id = :feed ORDER BY id DESC OFFSET :keep LIMIT 1)"
        ),
        {"tenant": tenant_id, "feed": feed_id, "keep": keep},
    )


async def remove(connection: AsyncConnection, tenant_id: UUID, feed_id: UUID, now: datetime) -> bool:
    """Delete the feed and its articles. Feeds that carried some of them too are fetched anew, in full, so that those come back.

    Their leases end: a fetch under way may be answered "not modified" on the strength of what is deleted here.
    """
    await connection.execute(
        text(
            "UPDATE feeds SET etag = '', last_modified = '', next_fetch_at = :now, leased_until = NULL, lease_token = lease_token + 1"
            " WHERE tenant_id = :tenant AND id <> :feed AND id IN ("
            " SELECT k.feed_id FROM article_keys k JOIN articles a ON a.tenant_id = k.tenant_id AND a.id = k.article_id"
            " WHERE a.tenant_id = :tenant AND a.feed_id = :feed)"
        ),
        {"tenant": tenant_id, "feed": feed_id, "now": now},
    )
    result = await connection.execute(
        text("DELETE FROM feeds WHERE tenant_id = :tenant AND id = :feed"), {"tenant": tenant_id, "feed": feed_id}
    )
    return result.rowcount == 1


def _feed(row: Row[Any]) -> FeedRow:
    return FeedRow(
        tenant_id=row.tenant_id,
        id=row.id,
        url=row.url,
        title=row.title,
        state=row.state,
        interval_seconds=row.interval_seconds,
        next_fetch_at=row.next_fetch_at,
        last_fetch_at=row.last_fetch_at,
        last_status=row.last_status,
        last_error=row.last_error,
        consecutive_failures=row.consecutive_failures,
        validators=Validators(row.etag, row.last_modified),
        created_at=row.created_at,
        lease_token=row.lease_token,
        articles=row.articles,
    )
