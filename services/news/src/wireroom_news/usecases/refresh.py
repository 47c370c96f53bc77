"""Which feeds are fetched when: those that are due, and those that someone asks for."""

from __future__ import annotations

import asyncio
from uuid import UUID

import structlog

from wireroom_common.clock import Clock
from wireroom_common.db import Database
from wireroom_common.errors import ErrorKind, WireroomError, not_found
from wireroom_news.domain.schedule import after_failure
from wireroom_news.settings import NewsSettings
from wireroom_news.storage import feeds
from wireroom_news.storage.feeds import FeedRow
from wireroom_news.usecases.fetch_feed import FetchFeed, FetchOutcome

_log = structlog.get_logger(__name__)
_BUSY_WAIT = 0.1
_BUSY_TRIES = 50
_GIVE_BACK_SECONDS = 2


class Refresh:
    """Runs fetches in the background, at most one per feed over all replicas (by lease and fencing token)."""

    def __init__(self, database: Database, fetch: FetchFeed, clock: Clock, settings: NewsSettings) -> None:
        self._database = database
        self._fetch = fetch
        self._clock = clock
        self._settings = settings
        self._running: dict[tuple[UUID, UUID], asyncio.Task[FetchOutcome]] = {}

    async def due(self) -> int:
        """Start the fetches that are due, as many as there are free places; returns how many. Does not wait for them."""
        free = self._settings.fetch_concurrency - len(self._running)
        if free <= 0:
            return 0
        async with self._database.system() as connection:
            leased = await feeds.lease_due(connection, self._clock.now(), seconds=self._settings.lease_seconds, limit=free)
        for feed in leased:
            self._start(feed)
        return len(leased)

    async def now(self, tenant_id: UUID, feed_id: UUID) -> FetchOutcome:
        """Fetch one feed and return when the result is stored; a fetch of this process that is under way counts.

        NOT_FOUND without such a feed; CONFLICT `feed_busy` when another process keeps fetching it.
        """
        for _ in range(_BUSY_TRIES):
            running = self._running.get((tenant_id, feed_id))
            if running is None:
                feed = await self._lease(tenant_id, feed_id)
                running = self._running.get((tenant_id, feed_id)) if feed is None else self._start(feed)
            if running is not None:
                # A caller who goes away does not take the fetch from the others that wait for it.
                outcome = await asyncio.shield(running)
                if outcome.stored:
                    return outcome
            await asyncio.sleep(_BUSY_WAIT)
        raise WireroomError(
            ErrorKind.CONFLICT, "feed_busy", "The feed is being fetched right now; try again shortly.", retry_after=2
        )

    async def idle(self) -> None:
        """Return when no fetch is under way."""
        while self._running:
            await asyncio.wait(list(self._running.values()))

    async def stop(self) -> None:
        """Cancel what is under way; leases are given back where the database still answers."""
        for task in list(self._running.values()):
            task.cancel()
        await self.idle()

    async def _lease(self, tenant_id: UUID, feed_id: UUID) -> FeedRow | None:
        async with self._database.tenant(tenant_id) as connection:
            feed = await feeds.lease(connection, tenant_id, feed_id, self._clock.now(), seconds=self._settings.lease_seconds)
            if feed is None and await feeds.find(connection, tenant_id, feed_id=feed_id) is None:
                raise not_found("feed")
        return feed

    def _start(self, feed: FeedRow) -> asyncio.Task[FetchOutcome]:
        task = asyncio.get_running_loop().create_task(self._run(feed), name=f"fetch feed {feed.id}")
        key = (feed.tenant_id, feed.id)
        self._running[key] = task
        task.add_done_callback(lambda done: self._done(key, done))
        return task

    async def _run(self, feed: FeedRow) -> FetchOutcome:
        try:
            return await self._fetch(feed)
        except asyncio.CancelledError:
            async with asyncio.timeout(_GIVE_BACK_SECONDS), self._database.tenant(feed.tenant_id) as connection:
                await feeds.release(connection, feed)
            raise
        except Exception:
            # Not the feed's failure, so not its record; but what broke once must not be tried every second.
            until = after_failure(self._clock.now(), feed.interval_seconds, failures=1)
            async with asyncio.timeout(_GIVE_BACK_SECONDS), self._database.tenant(feed.tenant_id) as connection:
                await feeds.postpone(connection, feed, until)
            raise

    def _done(self, key: tuple[UUID, UUID], task: asyncio.Task[FetchOutcome]) -> None:
        if self._running.get(key) is task:
            del self._running[key]
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("feed_fetch_failed", feed_id=str(key[1]), exc_info=error)
