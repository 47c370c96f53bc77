"""Logins."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol
from uuid import UUID

from wireroom_auth.domain.identity import Account
from wireroom_auth.domain.sessions import Revocation, RotationResult, Session


@dataclass(frozen=True)
class Client:
    """Where a login came from, as events may tell it."""

    ip: str
    user_agent_sha256: str


class Sessions(Protocol):
    """Logins and their refresh tokens."""

    async def open(self, account: Account, session: Session, refresh_token: str, client: Client) -> bool:
        """Store a session with its first refresh token and tell of the login.

        False, with nothing stored, if the user was disabled or changed the password meanwhile.
        """

    async def record_failed_login(self, account: Account | None, client: Client, reason: str) -> None:
        """Tell of a failed login."""

    async def rotate(self, presented: str, *, now: datetime, grace: timedelta) -> RotationResult | None:
        """Spend a refresh token in one atomic step; None if it is unknown. Ends the session when the token was reused."""

    async def revoke(self, tenant_id: UUID, user_id: UUID, session_id: UUID, *, reason: str, now: datetime) -> None:
        """End a session of the user and tell of it; nothing if there is none or it has ended."""

    async def revocations(self, since: datetime, *, limit: int) -> list[Revocation]:
        """Sessions and keys of all tenants revoked at or after `since`, newest first."""
