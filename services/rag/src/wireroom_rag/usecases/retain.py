"""Let go of what is kept no longer, and say so."""

from __future__ import annotations

from collections.abc import Callable
from uuid import UUID

import structlog

from wireroom_rag.ports.retention import Retention
from wireroom_rag.usecases.delete import DeleteDroppedFiles

_AT_ONCE = 200
# Parts of one run; what is left is the next run's.
_PARTS = 50

_log = structlog.get_logger(__name__)


class Retain:
    """Old versions, members of collections with a term, unused collections, old articles; a part at a time.

    `ended(kind, count)` is told what went. 0 days means for ever.
    """

    def __init__(
        self,
        retention: Retention,
        files: DeleteDroppedFiles,
        ended: Callable[[str, int], None],
        *,
        versions_kept: int,
        version_days: int,
        article_days: int,
    ) -> None:
        self._retention = retention
        self._files = files
        self._ended = ended
        self._versions_kept = versions_kept
        self._version_days = version_days
        self._article_days = article_days

    async def __call__(self) -> dict[str, int]:
        """How much of each kind went. Harmless to run on several replicas at once."""
        counts = {
            "version": await self._versions(),
            "document": await self._members(),
            "collection": await self._collections(),
            "article": await self._articles() if self._article_days else 0,
        }
        for kind, count in counts.items():
            if count:
                self._ended(kind, count)
                _log.info("retention_ended", kind=kind, count=count)
        return counts

    async def _versions(self) -> int:
        count = 0
        for _ in range(_PARTS):
            found = await self._retention.old_versions(kept=self._versions_kept, days=self._version_days, limit=_AT_ONCE)
            count += sum([await self._retention.remove_version(old) for old in found])
            await self._files()
            if len(found) < _AT_ONCE:
                break
        return count

    async def _members(self) -> int:
        return sum([await self._retention.end_members(*collection, _AT_ONCE) for collection in await self._retention.terms()])

    async def _collections(self) -> int:
        found = await self._retention.expired_collections(_AT_ONCE)
        for collection in found:
            await self._retention.remove_collection(*collection)
        return len(found)

    async def _articles(self) -> int:
        count = 0
        for _ in range(_PARTS):
            found = await self._retention.old_articles(self._article_days, _AT_ONCE)
            by_tenant: dict[UUID, list[UUID]] = {}
            for tenant_id, article_id in found:
                by_tenant.setdefault(tenant_id, []).append(article_id)
            for tenant_id, ids in by_tenant.items():
                await self._retention.remove_articles(tenant_id, sorted(ids))
            count += len(found)
            if len(found) < _AT_ONCE:
                break
        return count
