"""End the caller's session, another one of the caller's, or all of them."""

from __future__ import annotations

from uuid import UUID

from wireroom_auth.ports.sessions import Sessions
from wireroom_common.clock import Clock
from wireroom_common.errors import ErrorKind, WireroomError, not_found
from wireroom_common.ids import parse_id
from wireroom_common.principal import Principal, PrincipalKind


def session_of_caller(caller: Principal) -> UUID:
    """The session that the call is made with; FORBIDDEN for callers without one (API keys)."""
    if caller.kind is not PrincipalKind.USER:
        raise WireroomError(ErrorKind.FORBIDDEN, "session_required", "Only a signed-in user can do this, not an API key.")
    return parse_id(caller.credential_id, "session")


class Logout:
    """Repeating it changes nothing."""

    def __init__(self, sessions: Sessions, clock: Clock) -> None:
        self._sessions = sessions
        self._clock = clock

    async def run(self, caller: Principal) -> None:
        """FORBIDDEN for callers without a session (API keys)."""
        session_id = session_of_caller(caller)
        await self._sessions.revoke(caller.tenant(), caller.user_id(), session_id, reason="logout", now=self._clock.now())


class RevokeSession:
    """Others' sessions look as if they were not there."""

    def __init__(self, sessions: Sessions, clock: Clock) -> None:
        self._sessions = sessions
        self._clock = clock

    async def run(self, caller: Principal, session_id: str) -> None:
        """NOT_FOUND unless it is a live session of the caller's; FORBIDDEN for callers without a session."""
        session_of_caller(caller)
        wanted = parse_id(session_id, "session")
        if not await self._sessions.revoke(caller.tenant(), caller.user_id(), wanted, reason="revoked", now=self._clock.now()):
            raise not_found("session")


class LogoutAll:
    """Everywhere at once; API keys go on."""

    def __init__(self, sessions: Sessions, clock: Clock) -> None:
        self._sessions = sessions
        self._clock = clock

    async def run(self, caller: Principal) -> int:
        """How many sessions ended; FORBIDDEN for callers without a session."""
        session_of_caller(caller)
        return await self._sessions.revoke_all(caller.tenant(), caller.user_id(), now=self._clock.now())
