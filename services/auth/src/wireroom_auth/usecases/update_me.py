"""Change what one is called."""

from __future__ import annotations

from wireroom_auth.domain.identity import User, normalise_name
from wireroom_auth.errors import account_unavailable
from wireroom_auth.ports.accounts import Accounts
from wireroom_auth.ports.passwords import Passwords
from wireroom_auth.usecases.logout import session_of_caller
from wireroom_common.principal import Principal


class UpdateMe:
    """The caller's own account; roles and address are not the caller's to change."""

    def __init__(self, accounts: Accounts, passwords: Passwords) -> None:
        self._accounts = accounts
        self._passwords = passwords

    async def run(self, caller: Principal, name: str | None) -> User:
        """The user as they are now; None leaves the name. INVALID for a malformed name, FORBIDDEN for callers without a session."""
        session_of_caller(caller)
        if name is None:
            user = await self._accounts.get(caller.tenant(), caller.user_id())
        else:
            user = await self._passwords.rename(caller.tenant(), caller.user_id(), normalise_name(name))
        if user is None or user.disabled_at is not None:
            raise account_unavailable()
        return user
