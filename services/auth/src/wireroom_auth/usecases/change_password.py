"""Choose another password."""

from __future__ import annotations

from dataclasses import dataclass, field

from wireroom_auth.domain.sessions import IssuedTokens
from wireroom_auth.errors import account_unavailable
from wireroom_auth.ports.backoff import Backoff
from wireroom_auth.ports.cryptography import PasswordHashing
from wireroom_auth.ports.passwords import Passwords
from wireroom_auth.usecases.login import client_of
from wireroom_auth.usecases.logout import session_of_caller
from wireroom_auth.usecases.token_issuing import TokenIssuing
from wireroom_common.clock import Clock
from wireroom_common.errors import ErrorKind, WireroomError, invalid
from wireroom_common.principal import Principal


@dataclass(frozen=True)
class PasswordChange:
    """What a person sends, and from where."""

    current_password: str = field(repr=False)
    new_password: str = field(repr=False)
    client_ip: str = ""


class ChangePassword:
    """Ends all other sessions; the caller's goes on under new tokens."""

    def __init__(
        self, *, passwords: Passwords, hashing: PasswordHashing, backoff: Backoff, issuing: TokenIssuing, clock: Clock
    ) -> None:
        self._passwords = passwords
        self._hashing = hashing
        self._backoff = backoff
        self._issuing = issuing
        self._clock = clock

    async def run(self, caller: Principal, change: PasswordChange) -> IssuedTokens:
        """The tokens to go on with.

        FORBIDDEN for callers without a session and `current_password_wrong`; INVALID for a password that may not be chosen;
        RATE_LIMITED: wrong passwords count here as they do at login, since a stolen session must not be a way to guess.
        """
        session_id = session_of_caller(caller)
        ip = client_of(change.client_ip, "").ip
        account = await self._passwords.account(caller.tenant(), caller.user_id())
        if account is None or account.user.disabled_at is not None:
            raise account_unavailable()
        user = account.user
        await self._backoff.check(user.email, ip)
        fits = await self._hashing.verify(change.current_password, account.password_hash)
        await self._backoff.settle(user.email, ip, failed=not fits)
        if not fits:
            raise WireroomError(ErrorKind.FORBIDDEN, "current_password_wrong", "The present password is wrong.")
        if change.new_password == change.current_password:
            raise invalid("password_unchanged", "The new password is the present one; choose another.", field="new_password")
        password_hash = await self._hashing.hash_new(change.new_password, email=user.email, name=user.name)
        changed = await self._passwords.change(account, password_hash, session_id, now=self._clock.now())
        if changed is None:
            raise account_unavailable()
        return self._issuing.issue(changed.user, changed.session, changed.refresh_token)
