"""What was revoked and may still be presented somewhere."""

from __future__ import annotations

from datetime import datetime, timedelta

from wireroom_auth.domain.sessions import RaisedEpoch, Revocation, SessionTerms
from wireroom_auth.ports.sessions import Sessions
from wireroom_common.clock import Clock

# A replica's clock may be off, and a revocation is stamped a moment before it is committed.
_MARGIN = timedelta(minutes=2)
# Together about 3.2 MB as a message, below the 4 MB that gRPC takes by default.
_LIMIT = 40_000
_EPOCHS = 8_000


class ListRevocations:
    """Older ones do not matter: no access token lives that long."""

    def __init__(self, sessions: Sessions, clock: Clock, terms: SessionTerms) -> None:
        self._sessions = sessions
        self._clock = clock
        self._terms = terms

    async def run(self, since: datetime | None) -> tuple[list[Revocation], list[RaisedEpoch]]:
        """Newest first, at most 40,000 and 8,000. `since` is widened by two minutes: repeated answers are expected."""
        oldest = self._clock.now() - self._terms.access
        begin = max(oldest, since or oldest) - _MARGIN
        return await self._sessions.revocations(begin, limit=_LIMIT), await self._sessions.raised_epochs(begin, limit=_EPOCHS)
