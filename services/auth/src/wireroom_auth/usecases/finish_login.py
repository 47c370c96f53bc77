"""The second step of a login."""

from __future__ import annotations

from wireroom_auth.domain.identity import Account, User
from wireroom_auth.domain.second_factor import code_invalid, mfa_token_invalid
from wireroom_auth.domain.sessions import IssuedTokens
from wireroom_auth.ports.backoff import Backoff
from wireroom_auth.ports.factor_store import FactorStore
from wireroom_auth.ports.sessions import Client, Sessions
from wireroom_auth.usecases.session_opening import SessionOpening


class FinishLogin:
    """Wrong codes count like wrong passwords, for the account and for the network they come from."""

    def __init__(self, *, factors: FactorStore, sessions: Sessions, backoff: Backoff, opening: SessionOpening) -> None:
        self._factors = factors
        self._sessions = sessions
        self._backoff = backoff
        self._opening = opening

    async def run(self, mfa_token: str, code: str, client: Client) -> tuple[IssuedTokens, User]:
        """Tokens of a new session and the user. UNAUTHENTICATED `mfa_token_invalid`, `mfa_code_invalid`; RATE_LIMITED."""
        pending = await self._factors.pending(mfa_token)
        if pending is None:
            raise mfa_token_invalid()
        await self._backoff.check(pending.user.email, client.ip)
        method = await self._factors.finish(mfa_token, code)
        if method is None:
            await self._sessions.record_failed_login(Account(pending.user, None), client, "wrong_code")
        await self._backoff.settle(pending.user.email, client.ip, failed=method is None)
        if method is None:
            raise code_invalid()
        opened = await self._opening.open(pending.user, client, (*pending.methods, method))
        if opened is None:
            await self._sessions.record_failed_login(Account(pending.user, None), client, "changed_meanwhile")
            raise mfa_token_invalid()
        return opened
