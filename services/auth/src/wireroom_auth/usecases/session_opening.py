"""The one place where a session begins, whatever proved who the user is."""

from __future__ import annotations

from wireroom_auth.domain.credentials import new_refresh_token
from wireroom_auth.domain.identity import Account, User
from wireroom_auth.domain.sessions import IssuedTokens, Session, SessionTerms
from wireroom_auth.ports.backoff import Backoff
from wireroom_auth.ports.sessions import Client, Sessions
from wireroom_auth.usecases.token_issuing import TokenIssuing
from wireroom_common.clock import Clock
from wireroom_common.ids import new_id


class SessionOpening:
    """Stores the session, tells of the login, forgets the failures before it and issues the first tokens."""

    def __init__(self, *, sessions: Sessions, backoff: Backoff, issuing: TokenIssuing, clock: Clock, terms: SessionTerms) -> None:
        self._sessions = sessions
        self._backoff = backoff
        self._issuing = issuing
        self._clock = clock
        self._terms = terms

    async def open(self, proven: Account | User, client: Client, methods: tuple[str, ...]) -> tuple[IssuedTokens, User] | None:
        """The tokens of a new session, and the user as they are now.

        None, with nothing stored, if the user was disabled or deleted meanwhile, or what was proven has changed: of an `Account`
        the password, of a `User` the epoch. `methods`: "password", "totp", "recovery_code", "oidc:<provider>".
        """
        given = proven.user if isinstance(proven, Account) else proven
        now = self._clock.now()
        session = Session(
            id=new_id(),
            tenant_id=given.tenant_id,
            user_id=given.id,
            created_at=now,
            expires_at=now + self._terms.session,
        )
        refresh_token = new_refresh_token()
        user = await self._sessions.open(proven, session, refresh_token, client, methods)
        if user is None:
            return None
        await self._backoff.forget(user.email, client.ip)
        return self._issuing.issue(user, session, refresh_token), user
