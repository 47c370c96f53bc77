"""Stored passwords."""

from __future__ import annotations

from datetime import datetime
from typing import Protocol
from uuid import UUID

from wireroom_auth.domain.identity import Account, User
from wireroom_auth.domain.sessions import RotationResult


class Passwords(Protocol):
    """The password of an account, and the name that it may not resemble."""

    async def account(self, tenant_id: UUID, user_id: UUID) -> Account | None:
        """The account of a user."""

    async def upgrade(self, account: Account, password_hash: str) -> bool:
        """Store another hash of the same password; False if the password was changed meanwhile."""

    async def change(self, account: Account, password_hash: str, session_id: UUID, *, now: datetime) -> RotationResult | None:
        """Store a new password and go on with `session_id` alone, under a new refresh token.

        None, with nothing stored, if the password was changed meanwhile, or the user or the session has ended.
        """

    async def rename(self, tenant_id: UUID, user_id: UUID, name: str) -> User | None:
        """Change the user's name; None without such a user."""
