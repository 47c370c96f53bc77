"""Articles as documents: what the events of the news service change, on the connection of the event's transaction."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from wireroom_rag.adapters.index_sql import remove_chunks


@dataclass(frozen=True)
class ArticleVersion:
    """What an event says of an article."""

    tenant_id: UUID
    article_id: UUID
    version: int
    feed_id: UUID
    title: str
    url: str
    sha256: str
    published_at: datetime | None


async def receive_article(connection: AsyncConnection, article: ArticleVersion) -> bool:
    """Queue a version for the index; False when this or a newer one is known already (events may repeat and overtake each other)."""
    known = await connection.execute(
        text(
            """
            INSERT INTO documents (tenant_id, id, kind, feed_id, name, latest_version)
            VALUES (:tenant_id, :id, 'article', :feed_id, :title, :version)
            ON CONFLICT (tenant_id, id) DO UPDATE SET latest_version = excluded.latest_version, name = excluded.name
             WHERE documents.latest_version < excluded.latest_version AND documents.kind = 'article'
            """
        ),
        values := {
            "tenant_id": article.tenant_id,
            "id": article.article_id,
            "feed_id": article.feed_id,
            "title": article.title,
            "version": article.version,
            "url": article.url,
            "sha256": article.sha256,
            "published_at": article.published_at,
        },
    )
    if not known.rowcount:
        return False
    # Versions that were never processed were never cited: they need not be.
    await connection.execute(
        text(
            "DELETE FROM document_versions WHERE tenant_id = :tenant_id AND document_id = :id AND version < :version"
            " AND state <> 'indexed' AND content IS NULL"
        ),
        values,
    )
    await connection.execute(
        text(
            "INSERT INTO document_versions (tenant_id, document_id, version, kind, title, url, media_type, sha256, published_at)"
            " VALUES (:tenant_id, :id, :version, 'article', :title, :url, 'text/plain', :sha256, :published_at)"
        ),
        values,
    )
    return True


async def remove_feed(connection: AsyncConnection, tenant_id: UUID, feed_id: UUID) -> None:
    """Delete all articles of a feed."""
    rows = await connection.execute(
        text(
            "SELECT id FROM documents WHERE tenant_id = :tenant_id AND feed_id = :feed_id AND kind = 'article' ORDER BY id FOR UPDATE"
        ),
        {"tenant_id": tenant_id, "feed_id": feed_id},
    )
    await remove_articles(connection, tenant_id, list(rows.scalars()))


async def remove_articles(connection: AsyncConnection, tenant_id: UUID, ids: list[UUID]) -> None:
    """Delete articles that are gone, with everything that is known of them."""
    values = {"tenant_id": tenant_id, "ids": ids}
    own = "tenant_id = :tenant_id AND id = ANY(CAST(:ids AS uuid[])) AND kind = 'article'"
    # Before their chunks, as whoever writes these does.
    await connection.execute(text(f"SELECT 1 FROM documents WHERE {own} ORDER BY id FOR UPDATE"), values)  # noqa: S608 - a constant
    await remove_chunks(connection, tenant_id, ids)
    await connection.execute(text(f"DELETE FROM documents WHERE {own}"), values)  # noqa: S608 - a constant
