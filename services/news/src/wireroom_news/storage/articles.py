"""The `articles`, `article_versions` and `article_keys` tables. Every function works in the caller's transaction."""

# ruff: noqa: S608 - statements are composed of names written in this module; every value is a parameter.

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from wireroom_news.domain.articles import is_tenant_wide

_COLUMNS = "v.article_id, v.version, v.feed_id, v.url, v.title, v.text, v.summary, v.author, v.published_at, v.fetched_at, v.content_sha256"

_LIST_COLUMNS = _COLUMNS.replace("v.text", "'' AS text")


@dataclass(frozen=True)
class ArticleVersion:
    """One version of an article. `text` is empty in lists."""

    article_id: UUID
    version: int
    feed_id: UUID
    url: str
    title: str
    text: str
    summary: str
    author: str
    published_at: datetime
    fetched_at: datetime
    content_sha256: str


@dataclass(frozen=True)
class ArticleHead:
    """What identity needs to know of a stored article."""

    id: UUID
    feed_id: UUID
    version: int
    content_sha256: str
    published_at: datetime


@dataclass(frozen=True)
class StoredKey:
    """Where a key leads; `article_id` is None when it identifies nothing."""

    feed_id: UUID
    key: str
    article_id: UUID | None


async def stored_keys(connection: AsyncConnection, tenant_id: UUID, feed_id: UUID, keys: Iterable[str]) -> list[StoredKey]:
    """What is known of these keys: in this feed, and for keys that join across feeds in the whole tenant."""
    wanted = list(keys)
    rows = await connection.execute(
        text(
            "SELECT feed_id, key, article_id FROM article_keys WHERE tenant_id = :tenant AND"
            " ((feed_id = :feed AND key = ANY(:own)) OR key = ANY(:wide))"
        ),
        {"tenant": tenant_id, "feed": feed_id, "own": wanted, "wide": [key for key in wanted if is_tenant_wide(key)]},
    )
    return [StoredKey(*row) for row in rows]


async def heads(connection: AsyncConnection, tenant_id: UUID, ids: Iterable[UUID]) -> dict[UUID, ArticleHead]:
    """By id."""
    rows = await connection.execute(
        text(
            "SELECT id, feed_id, version, content_sha256, published_at FROM articles"
            " WHERE tenant_id = :tenant AND id = ANY(:ids) AND merged_into IS NULL"
        ),
        {"tenant": tenant_id, "ids": list(ids)},
    )
    return {row.id: ArticleHead(*row) for row in rows}


async def insert(connection: AsyncConnection, tenant_id: UUID, versions: Sequence[ArticleVersion]) -> None:
    """New articles, each with its first version."""
    if not versions:
        return
    await connection.execute(
        text(
            "INSERT INTO articles (tenant_id, id, feed_id, version, content_sha256, published_at)"
            " VALUES (:tenant_id, :article_id, :feed_id, :version, :content_sha256, :published_at)"
        ),
        [_row(tenant_id, version) for version in versions],
    )
    await _insert_versions(connection, tenant_id, versions)


async def update(connection: AsyncConnection, tenant_id: UUID, versions: Sequence[ArticleVersion], *, keep: int) -> None:
    """A new version each of articles that exist; of old ones the newest `keep` stay."""
    if not versions:
        return
    await connection.execute(
        text(
            "UPDATE articles SET feed_id = :feed_id, version = :version, content_sha256 = :content_sha256, published_at = :published_at"
            " WHERE tenant_id = :tenant_id AND id = :article_id"
        ),
        [_row(tenant_id, version) for version in versions],
    )
    await _insert_versions(connection, tenant_id, versions)
    await connection.execute(
        text("DELETE FROM article_versions WHERE tenant_id = :tenant AND article_id = :id AND version <= :oldest"),
        [{"tenant": tenant_id, "id": version.article_id, "oldest": version.version - keep} for version in versions],
    )


async def merge(connection: AsyncConnection, tenant_id: UUID, losers: Iterable[UUID], survivor: UUID) -> None:
    """`losers` turned out to be `survivor`: they leave the lists, their keys lead to it; what cites them stays readable."""
    parameters = {"tenant": tenant_id, "losers": list(losers), "survivor": survivor}
    await connection.execute(
        text(
            "UPDATE articles SET merged_into = :survivor WHERE tenant_id = :tenant AND (id = ANY(:losers) OR merged_into = ANY(:losers))"
        ),
        parameters,
    )
    await connection.execute(
        text("UPDATE article_keys SET article_id = :survivor WHERE tenant_id = :tenant AND article_id = ANY(:losers)"), parameters
    )


async def put_keys(connection: AsyncConnection, tenant_id: UUID, keys: Sequence[StoredKey]) -> None:
    """Insert or redirect."""
    if not keys:
        return
    await connection.execute(
        text(
            "INSERT INTO article_keys (tenant_id, feed_id, key, article_id) VALUES (:tenant, :feed, :key, :article)"
            " ON CONFLICT (tenant_id, feed_id, key) DO UPDATE SET article_id = EXCLUDED.article_id"
        ),
        [{"tenant": tenant_id, "feed": key.feed_id, "key": key.key, "article": key.article_id} for key in keys],
    )


async def find(connection: AsyncConnection, tenant_id: UUID, article_id: UUID, version: int) -> ArticleVersion | None:
    """One stored version; 0 for the newest."""
    row = (
        await connection.execute(
            text(
                f"SELECT {_COLUMNS} FROM article_versions v WHERE v.tenant_id = :tenant AND v.article_id = :id"
                " AND (:version = 0 OR v.version = :version) ORDER BY v.version DESC LIMIT 1"
            ),
            {"tenant": tenant_id, "id": article_id, "version": version},
        )
    ).one_or_none()
    return ArticleVersion(*row) if row else None


@dataclass(frozen=True)
class ArticleFilter:
    """What a list is narrowed to; `before` is the (published_at, id) of the last article of the page before."""

    query: str = ""
    feed_id: UUID | None = None
    since: datetime | None = None
    before: tuple[datetime, UUID] | None = None


async def page(connection: AsyncConnection, tenant_id: UUID, wanted: ArticleFilter, limit: int) -> list[ArticleVersion]:
    """Newest first, without text."""
    conditions = ["a.tenant_id = :tenant", "a.merged_into IS NULL"]
    parameters: dict[str, Any] = {"tenant": tenant_id, "limit": limit}
    if wanted.feed_id is not None:
        conditions.append("a.feed_id = :feed")
        parameters["feed"] = wanted.feed_id
    if wanted.since is not None:
        conditions.append("a.published_at >= :since")
        parameters["since"] = wanted.since
    if wanted.before is not None:
        conditions.append("(a.published_at, a.id) < (:before_at, :before_id)")
        parameters["before_at"], parameters["before_id"] = wanted.before
    if wanted.query:
        conditions.append("(v.title ILIKE :pattern OR v.text ILIKE :pattern)")
        parameters["pattern"] = f"%{_literal(wanted.query)}%"
    rows = await connection.execute(
        text(
            f"SELECT {_LIST_COLUMNS} FROM articles a"
            " JOIN article_versions v ON v.tenant_id = a.tenant_id AND v.article_id = a.id AND v.version = a.version"
            f" WHERE {' AND '.join(conditions)} ORDER BY a.published_at DESC, a.id DESC LIMIT :limit"
        ),
        parameters,
    )
    return [ArticleVersion(*row) for row in rows]


async def _insert_versions(connection: AsyncConnection, tenant_id: UUID, versions: Sequence[ArticleVersion]) -> None:
    await connection.execute(
        text(
            "INSERT INTO article_versions (tenant_id, article_id, version, feed_id, url, title, text, summary, author, published_at,"
            " fetched_at, content_sha256) VALUES (:tenant_id, :article_id, :version, :feed_id, :url, :title, :text, :summary, :author,"
            " :published_at, :fetched_at, :content_sha256)"
        ),
        [_row(tenant_id, version) for version in versions],
    )


def _row(tenant_id: UUID, version: ArticleVersion) -> dict[str, Any]:
    return {"tenant_id": tenant_id, **vars(version)}


def _literal(query: str) -> str:
    return query.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
