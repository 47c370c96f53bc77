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


class Purge:
    """Deletes ended sessions (their refresh tokens go with them) and wipes successors whose grace is over.

    Spent refresh tokens stay as long as their session: without them reuse could not be told from rubbish.
    """

    def __init__(self, database: Database, clock: Clock, *, grace: timedelta) -> None:
        self._database = database
        self._clock = clock
        self._grace = grace

    async def run(self) -> None:
        """One round; safe on several replicas at once."""
        now = self._clock.now()
        for _ in range(_BATCHES_PER_RUN):
            if await self._sessions(now) + await self._successors(now) == 0:
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

    async def _successors(self, now: datetime) -> int:
        async with self._database.system() as connection:
            result = await connection.execute(
                text(
                    "WITH past AS MATERIALIZED (SELECT tenant_id, session_id, counter FROM refresh_tokens"
                    " WHERE successor IS NOT NULL AND used_at < :before LIMIT :batch)"
                    " UPDATE refresh_tokens t SET successor = NULL FROM past"
                    " WHERE t.tenant_id = past.tenant_id AND t.session_id = past.session_id AND t.counter = past.counter"
                ),
                {"before": now - self._grace - timedelta(minutes=5), "batch": _BATCH},
            )
        return result.rowcount
