"""Ask a signed-in user for the password again."""

from __future__ import annotations

from wireroom_auth.domain.identity import Account, User
from wireroom_auth.errors import account_unavailable
from wireroom_auth.ports.backoff import Backoff
from wireroom_auth.ports.cryptography import PasswordHashing
from wireroom_auth.ports.passwords import Passwords
from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_common.principal import Principal, PrincipalKind
from wireroom_common.rpc.context import current_client_address


class PasswordProof:
    """A stolen session must not be enough to change how its owner signs in. Guesses count like failed logins."""

    def __init__(self, passwords: Passwords, hashing: PasswordHashing, backoff: Backoff) -> None:
        self._passwords = passwords
        self._hashing = hashing
        self._backoff = backoff

    async def user(self, caller: Principal) -> User:
        """The signed-in user; FORBIDDEN `session_required` for API keys, UNAUTHENTICATED when disabled or gone."""
        return (await self._account(caller)).user

    async def proven(self, caller: Principal, password: str) -> User:
        """The signed-in user, whose password this is. FORBIDDEN `password_wrong`, CONFLICT `password_missing`, RATE_LIMITED."""
        account = await self._account(caller)
        user = account.user
        if account.password_hash is None:
            raise WireroomError(
                ErrorKind.CONFLICT,
                "password_missing",
                "This account has no password; set one first, by `forgot password` with your e-mail address.",
            )
        address = current_client_address()
        await self._backoff.check(user.email, address)
        fits = await self._hashing.verify(password, account.password_hash)
        await self._backoff.settle(user.email, address, failed=not fits)
        if not fits:
            raise WireroomError(ErrorKind.FORBIDDEN, "password_wrong", "The password is wrong.")
        return user

    async def _account(self, caller: Principal) -> Account:
        if caller.kind is not PrincipalKind.USER:
            raise WireroomError(
                ErrorKind.FORBIDDEN, "session_required", "Only a signed-in user can do this, not a program with an API key."
            )
        account = await self._passwords.account(caller.tenant(), caller.user_id())
        if account is None or account.user.disabled_at is not None:
            raise account_unavailable()
        return account

    async def count_failure(self, user: User) -> None:
        """A wrong code counts, too."""
        await self._backoff.settle(user.email, current_client_address(), failed=True)
