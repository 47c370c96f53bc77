"""End the caller's session."""

from __future__ import annotations

from wireroom_auth.ports.sessions import Sessions
from wireroom_common.clock import Clock
from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_common.ids import parse_id
from wireroom_common.principal import Principal, PrincipalKind


class Logout:
    """Repeating it changes nothing."""

    def __init__(self, sessions: Sessions, clock: Clock) -> None:
        self._sessions = sessions
        self._clock = clock

    async def run(self, caller: Principal) -> None:
        """FORBIDDEN for callers without a session (API keys)."""
        if caller.kind is not PrincipalKind.USER:
            raise WireroomError(
                ErrorKind.FORBIDDEN, "session_required", "Only a signed-in user can log out; revoke an API key instead."
            )
        session_id = parse_id(caller.credential_id, "session")
        await self._sessions.revoke(caller.tenant(), caller.user_id(), session_id, reason="logout", now=self._clock.now())
