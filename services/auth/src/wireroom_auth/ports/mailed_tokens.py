"""What is done with the one-time tokens that people get by mail."""

from __future__ import annotations

from typing import Protocol
from uuid import UUID

from wireroom_auth.domain.identity import User


class PasswordResets(Protocol):
    """Resets of forgotten passwords."""

    @property
    def configured(self) -> bool:
        """Whether mail can be sent at all."""

    async def request(self, email: str, client_ip: str) -> None:
        """Note that somebody asks for a reset; the same step whether or not the address has an account.

        UNAVAILABLE `reset_requests_busy` when very many wait.
        """

    async def account(self, token: str) -> User | None:
        """Whose password the token resets; None if it is not good (any more)."""

    async def finish(self, token: str, password_hash: str) -> bool:
        """Spend the token, set the password, end all sessions and tell of it; False if the token is not good (any more)."""


class EmailVerification(Protocol):
    """Proof that an address belongs to the account."""

    @property
    def configured(self) -> bool:
        """Whether mail can be sent at all."""

    async def send(self, user: User) -> bool:
        """Write a mail with a token; False if several were sent lately."""

    async def verify(self, token: str) -> tuple[UUID, UUID] | None:
        """Spend the token and mark the address verified: tenant and user. None if the token is not good (any more)."""
