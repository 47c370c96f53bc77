"""Lists and searches of articles, kept until the tenant's articles change."""

from __future__ import annotations

from uuid import UUID

from wireroom_common.cache import Cache, Key, Namespace
from wireroom_common.db import Database
from wireroom_common.errors import WireroomError
from wireroom_common.logging import get_logger
from wireroom_news.storage import articles
from wireroom_news.storage.articles import ArticleFilter, ArticleVersion

# Ends every list that was kept for a tenant.
_ARTICLES = "articles"

log = get_logger(__name__)


def article_lists(seconds: float) -> Namespace:
    """Tags are asked of Redis at each look: who changes feeds finds the change in the next list, on whichever replica."""
    return Namespace("news.lists", seconds=seconds, verify=True, memory_entries=2_000, warm=200)


class ArticleLists:
    """Reads through `cache`; from the database alone without one. Every reader of a tenant's news sees the same lists."""

    def __init__(self, database: Database, cache: Cache[list[ArticleVersion]] | None) -> None:
        self._database = database
        self._cache = cache

    async def page(self, tenant_id: UUID, wanted: ArticleFilter, limit: int) -> list[ArticleVersion]:
        """Newest first, without text."""

        async def read() -> list[ArticleVersion]:
            async with self._database.tenant(tenant_id) as connection:
                return await articles.page(connection, tenant_id, wanted, limit)

        if self._cache is None:
            return await read()
        before = list(wanted.before) if wanted.before is not None else None
        key = Key.of(tenant_id, wanted.query, wanted.feed_id, wanted.since, before, limit, tags=(_ARTICLES,))
        return await self._cache.get_or_make(key, read)

    async def changed(self, tenant_id: UUID) -> None:
        """The tenant's articles are others now. UNAVAILABLE when that could not be told to Redis."""
        if self._cache is not None:
            await self._cache.invalidate(tenant_id, _ARTICLES)

    async def changed_here(self, tenant_id: UUID) -> None:
        """Like `changed`, at once, for what this process has just committed. If it fails, the change's event does it later."""
        try:
            await self.changed(tenant_id)
        except WireroomError as error:
            log.info("article_lists_not_told", tenant_id=str(tenant_id), error=error.code)
