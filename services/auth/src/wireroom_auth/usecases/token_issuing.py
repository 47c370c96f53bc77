"""Access tokens for a session: what login and refresh have in common."""

from __future__ import annotations

from wireroom_auth.domain.access_tokens import access_claims
from wireroom_auth.domain.identity import User
from wireroom_auth.domain.sessions import IssuedTokens, Session, SessionTerms
from wireroom_auth.ports.cryptography import AccessTokenSigner
from wireroom_common.clock import Clock
from wireroom_common.ids import new_id


class TokenIssuing:
    """Signs an access token that never outlives its session."""

    def __init__(self, signer: AccessTokenSigner, clock: Clock, terms: SessionTerms) -> None:
        self._signer = signer
        self._clock = clock
        self._terms = terms

    def issue(self, user: User, session: Session, refresh_token: str) -> IssuedTokens:
        """The pair for the client."""
        now = self._clock.now()
        expires_at = min(now + self._terms.access, session.expires_at)
        claims = access_claims(user, session, token_id=new_id(), now=now, expires_at=expires_at)
        return IssuedTokens(
            access_token=self._signer.sign(claims),
            refresh_token=refresh_token,
            expires_in=max(0, int((expires_at - now).total_seconds())),
            session_id=session.id,
        )
