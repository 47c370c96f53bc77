"""Logins."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol
from uuid import UUID

from wireroom_auth.domain.identity import Account, User
from wireroom_auth.domain.sessions import RaisedEpoch, Revocation, RotationResult, Session


@dataclass(frozen=True)
class Client:
    """Where a login came from."""

    ip: str
    user_agent: str = ""


@dataclass(frozen=True)
class SessionDetails:
    """A session as its user sees it."""

    session: Session
    last_used_at: datetime
    client: Client
    methods: tuple[str, ...]

    @property
    def id(self) -> UUID:
        """The session's id, by which the list is ordered."""
        return self.session.id


class Sessions(Protocol):
    """Logins and their refresh tokens."""

    async def open(
        self, proven: Account | User, session: Session, refresh_token: str, client: Client, methods: tuple[str, ...]
    ) -> User | None:
        """Store a session with its first refresh token, tell of the login, and return the user as they are now.

        None, with nothing stored, if the user was disabled, or the password (of an `Account`) or the epoch (of a `User`) has changed.
        """

    async def record_failed_login(self, account: Account | None, client: Client, reason: str) -> None:
        """Tell of a failed login."""

    async def rotate(self, presented: str, *, grace: timedelta, now: datetime, client_ip: str = "") -> RotationResult | None:
        """Spend a refresh token in one atomic step; None if it is unknown. Ends the session when the token was reused.

        The grace goes by the database's clock, which all replicas share; `now` decides about the session's expiry.
        """

    async def page(
        self, tenant_id: UUID, user_id: UUID, *, before: UUID | None, now: datetime, limit: int
    ) -> list[SessionDetails]:
        """The user's live sessions, newest first, from after the session `before`."""

    async def revoke(self, tenant_id: UUID, user_id: UUID, session_id: UUID, *, reason: str, now: datetime) -> bool:
        """End a session of the user and tell of it; False if there is none or it has ended."""

    async def revoke_all(self, tenant_id: UUID, user_id: UUID, *, now: datetime) -> int:
        """End all sessions of the user and void their access tokens; how many sessions ended."""

    async def revocations(self, since: datetime, *, limit: int) -> list[Revocation]:
        """Sessions and keys of all tenants revoked at or after `since`, newest first."""

    async def raised_epochs(self, since: datetime, *, limit: int) -> list[RaisedEpoch]:
        """Epochs of all tenants raised at or after `since`, newest first."""
