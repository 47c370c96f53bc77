"""Exchange a refresh token for the next pair."""

from __future__ import annotations

from wireroom_auth.domain.credentials import looks_like_refresh_token
from wireroom_auth.domain.sessions import IssuedTokens, Rotation, SessionTerms
from wireroom_auth.errors import session_ended
from wireroom_auth.ports.sessions import Sessions
from wireroom_auth.usecases.login import client_of
from wireroom_auth.usecases.token_issuing import TokenIssuing
from wireroom_common.clock import Clock


class Refresh:
    """Each refresh token works once; see `Rotation` for what a repeated one earns."""

    def __init__(self, sessions: Sessions, issuing: TokenIssuing, clock: Clock, terms: SessionTerms) -> None:
        self._sessions = sessions
        self._issuing = issuing
        self._clock = clock
        self._terms = terms

    async def run(self, refresh_token: str, client_ip: str = "") -> IssuedTokens:
        """The next pair of the session; UNAUTHENTICATED `refresh_token_invalid` in every other case."""
        if not looks_like_refresh_token(refresh_token):
            raise session_ended()
        client = client_of(client_ip, "")
        result = await self._sessions.rotate(refresh_token, grace=self._terms.grace, now=self._clock.now(), client_ip=client.ip)
        if result is None or result.rotation not in (Rotation.SUCCESSOR, Rotation.SAME_SUCCESSOR):
            raise session_ended()
        return self._issuing.issue(result.user, result.session, result.refresh_token)
