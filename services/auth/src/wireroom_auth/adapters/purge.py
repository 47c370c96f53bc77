"""Removal of what has expired, in bounded batches."""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy import text

from wireroom_common.clock import Clock
from wireroom_common.db import Database

_BATCH = 1000
_BATCHES_PER_RUN = 20
# Far longer than any access token lives: revocations are listed from these rows.
_KEEP_REVOKED = timedelta(days=1)
_MARGIN = timedelta(minutes=5)
# Longer than failures are counted, and as long as a network stays known for an address.
_KEEP_FAILURES = timedelta(days=2)
_KEEP_KNOWN = timedelta(days=90)


class Purge:
    """Deletes ended sessions (their refresh tokens go with them) and forgotten failures; wipes successors whose grace is over.

    Spent refresh tokens stay as long as their session: without them reuse could not be told from rubbish.
    """

    def __init__(self, database: Database, clock: Clock, *, access: timedelta, grace: timedelta) -> None:
        self._database = database
        self._clock = clock
        self._access = access
        self._grace = grace

    async def run(self) -> None:
        """One round; safe on several replicas at once."""
        now = self._clock.now()
        for _ in range(_BATCHES_PER_RUN):
            removed = await self._sessions(now) + await self._successors() + await self._epochs(now) + await self._attempts()
            if removed == 0:
                break

    async def _sessions(self, now: datetime) -> int:
        async with self._database.system() as connection:
            result = await connection.execute(
                text(
                    "WITH ended AS MATERIALIZED (SELECT tenant_id, id FROM sessions"
                    " WHERE expires_at < :now OR revoked_at < :revoked_before LIMIT :batch)"
                    " DELETE FROM sessions s USING ended WHERE s.tenant_id = ended.tenant_id AND s.id = ended.id"
                ),
                {"now": now, "revoked_before": now - _KEEP_REVOKED, "batch": _BATCH},
            )
        return result.rowcount

    async def _successors(self) -> int:
        async with self._database.system() as connection:
            result = await connection.execute(
                text(
                    "WITH past AS MATERIALIZED (SELECT tenant_id, session_id, counter FROM refresh_tokens"
                    " WHERE successor IS NOT NULL AND used_at < clock_timestamp() - make_interval(secs => :after) LIMIT :batch)"
                    " UPDATE refresh_tokens t SET successor = NULL FROM past"
                    " WHERE t.tenant_id = past.tenant_id AND t.session_id = past.session_id AND t.counter = past.counter"
                ),
                {"after": (self._grace + _MARGIN).total_seconds(), "batch": _BATCH},
            )
        return result.rowcount

    async def _epochs(self, now: datetime) -> int:
        async with self._database.system() as connection:
            result = await connection.execute(
                text(
                    "WITH past AS MATERIALIZED (SELECT tenant_id, subject_id FROM epoch_raises WHERE raised_at < :before LIMIT :batch)"
                    " DELETE FROM epoch_raises e USING past WHERE e.tenant_id = past.tenant_id AND e.subject_id = past.subject_id"
                    " AND e.raised_at < :before"
                ),
                {"before": now - self._access - _MARGIN, "batch": _BATCH},
            )
        return result.rowcount

    async def _attempts(self) -> int:
        async with self._database.system() as connection:
            result = await connection.execute(
                text(
                    "WITH past AS MATERIALIZED (SELECT key FROM login_attempts"
                    " WHERE greatest(failed_at, known_at) < clock_timestamp() - make_interval(secs => :failures)"
                    " AND (known_at IS NULL OR known_at < clock_timestamp() - make_interval(secs => :known))"
                    " LIMIT :batch FOR UPDATE SKIP LOCKED)"
                    " DELETE FROM login_attempts l USING past WHERE l.key = past.key"
                ),
                {"failures": _KEEP_FAILURES.total_seconds(), "known": _KEEP_KNOWN.total_seconds(), "batch": _BATCH},
            )
        return result.rowcount
