"""The caller's own account."""

from __future__ import annotations

from wireroom_auth.domain.identity import User
from wireroom_auth.errors import account_unavailable
from wireroom_auth.ports.accounts import Accounts
from wireroom_common.principal import Principal, PrincipalKind


class GetMe:
    """What the database says now, not what the token said when it was issued."""

    def __init__(self, accounts: Accounts) -> None:
        self._accounts = accounts

    async def run(self, caller: Principal) -> tuple[User, frozenset[str]]:
        """The user and what this caller may do: for an API key only what the key may. UNAUTHENTICATED when disabled or gone."""
        user = await self._accounts.get(caller.tenant(), caller.user_id())
        if user is None or user.disabled_at is not None:
            raise account_unavailable()
        if caller.kind is PrincipalKind.API_KEY:
            return user, caller.permissions
        return user, user.permissions
