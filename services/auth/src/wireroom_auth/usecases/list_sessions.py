"""The caller's sessions."""

from __future__ import annotations

from uuid import UUID

from wireroom_auth.ports.sessions import SessionDetails, Sessions
from wireroom_auth.usecases.logout import session_of_caller
from wireroom_auth.usecases.paging import page_of
from wireroom_common.clock import Clock
from wireroom_common.principal import Principal

LARGEST_PAGE = 100


class ListSessions:
    """Newest first, those that are live."""

    def __init__(self, sessions: Sessions, clock: Clock) -> None:
        self._sessions = sessions
        self._clock = clock

    async def run(self, caller: Principal, page_size: int, page_token: str) -> tuple[list[SessionDetails], str, UUID]:
        """A page, the token of the next one (empty at the end), and which session is the caller's. `page_size` 0 means 50."""
        current = session_of_caller(caller)
        tenant_id, user_id, now = caller.tenant(), caller.user_id(), self._clock.now()
        page, next_page = await page_of(
            lambda before, limit: self._sessions.page(tenant_id, user_id, before=before, now=now, limit=limit),
            page_size,
            page_token,
            largest=LARGEST_PAGE,
        )
        return page, next_page, current
