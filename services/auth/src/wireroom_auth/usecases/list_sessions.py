"""The caller's sessions."""

from __future__ import annotations

from uuid import UUID

from wireroom_auth.domain.credentials import page_token_after, read_page_token
from wireroom_auth.ports.sessions import SessionDetails, Sessions
from wireroom_auth.usecases.logout import session_of_caller
from wireroom_common.clock import Clock
from wireroom_common.errors import invalid
from wireroom_common.principal import Principal

DEFAULT_PAGE = 50
LARGEST_PAGE = 100


class ListSessions:
    """Newest first, those that are live."""

    def __init__(self, sessions: Sessions, clock: Clock) -> None:
        self._sessions = sessions
        self._clock = clock

    async def run(self, caller: Principal, page_size: int, page_token: str) -> tuple[list[SessionDetails], str, UUID]:
        """A page, the token of the next one (empty at the end), and which session is the caller's. `page_size` 0 means 50."""
        current = session_of_caller(caller)
        if page_size < 0:
            raise invalid("page_size_out_of_range", "The page size cannot be negative.", field="page_size")
        size = min(page_size or DEFAULT_PAGE, LARGEST_PAGE)
        found = await self._sessions.page(
            caller.tenant(), caller.user_id(), before=read_page_token(page_token), now=self._clock.now(), limit=size + 1
        )
        page = found[:size]
        return page, page_token_after(page[-1].session.id) if len(found) > size else "", current
