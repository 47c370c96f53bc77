"""What the use cases need from the outside."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Protocol
from uuid import UUID

from wireroom_auth.domain.api_keys import ApiKey, OwnedKey
from wireroom_auth.domain.identity import Account, User
from wireroom_auth.domain.sessions import Revocation, RotationResult, Session


@dataclass(frozen=True)
class Client:
    """Where a login came from, as events may tell it."""

    ip: str
    user_agent_sha256: str


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


class ApiKeys(Protocol):
    """API keys; all but `find` within one tenant."""

    async def add(self, key: ApiKey, secret: str, *, max_live: int) -> None:
        """Store a key by its digest and tell of it; CONFLICT `api_key_limit_reached` beyond `max_live` live keys of the owner."""

    async def page(self, tenant_id: UUID, owner_id: UUID, *, before: UUID | None, limit: int) -> list[ApiKey]:
        """The owner's keys that are not revoked, newest first, from after the key `before`."""

    async def revoke(self, tenant_id: UUID, owner_id: UUID, key_id: UUID, *, now: datetime) -> bool:
        """Revoke a key and tell of it; False if the owner has no such key."""

    async def find(self, secret: str) -> OwnedKey | None:
        """The key with this secret and its owner, in whichever tenant."""

    async def touch(self, key: ApiKey, *, now: datetime, at_most_every: timedelta) -> None:
        """Remember that the key was used, unless it was remembered within the interval."""


class PasswordHashing(Protocol):
    """Argon2id, off the event loop."""

    async def hash(self, password: str) -> str:
        """The hash to store; UNAVAILABLE when too many wait."""

    async def verify(self, password: str, password_hash: str | None) -> bool:
        """Whether the password fits; False for None, after the same work. UNAVAILABLE when too many wait."""


class AccessTokenSigner(Protocol):
    """Signs access tokens."""

    def sign(self, claims: Mapping[str, Any]) -> str:
        """A compact JWS of type `at+jwt`."""

    async def jwks(self) -> bytes:
        """The public keys as JSON Web Key Set."""
