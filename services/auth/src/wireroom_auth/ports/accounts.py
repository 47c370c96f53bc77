"""Users."""

from __future__ import annotations

from typing import Protocol
from uuid import UUID

from wireroom_auth.domain.identity import Account, User


class Accounts(Protocol):
    """Users and the installation's one-time admin token."""

    async def by_email(self, email: str) -> Account | None:
        """The account with this normalised address, in whichever tenant."""

    async def get(self, tenant_id: UUID, user_id: UUID) -> User | None:
        """A user of the tenant."""

    async def default_tenant(self) -> UUID:
        """The tenant that people register in."""

    async def is_admin_token(self, token: str) -> bool:
        """Whether this is the admin token that is still to be used."""

    async def add(self, account: Account, *, via: str, admin_token: str = "") -> None:
        """Store a user and tell of it. With an admin token, spend it in the same step.

        FORBIDDEN `admin_token_invalid` if it was spent meanwhile; CONFLICT `email_taken` (the token then stays unspent).
        """
