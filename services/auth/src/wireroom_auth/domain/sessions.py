"""Sessions and the rotation of their refresh tokens."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import Enum, auto
from uuid import UUID

from wireroom_auth.domain.identity import User


@dataclass(frozen=True)
class SessionTerms:
    """How long things live. `session`: from login, whatever happens; `grace`: of a spent refresh token."""

    access: timedelta
    session: timedelta
    grace: timedelta


@dataclass(frozen=True)
class Session:
    """One login."""

    id: UUID
    tenant_id: UUID
    user_id: UUID
    created_at: datetime
    expires_at: datetime
    revoked_at: datetime | None = None


@dataclass(frozen=True)
class PresentedToken:
    """The state of a presented refresh token. `latest` is the counter of the session's newest token."""

    counter: int
    latest: int
    used_at: datetime | None
    # False for a token that was spent without one: replaced when the password was changed.
    has_successor: bool = True


class Rotation(Enum):
    """What a presented refresh token earns."""

    SUCCESSOR = auto()  # The first use: spend it, make the successor.
    SAME_SUCCESSOR = auto()  # A parallel use inside the grace: hand out the successor that exists.
    SUPERSEDED = auto()  # Inside the grace, but the successor is spent already: refuse, end nothing.
    REUSED = auto()  # After the grace: somebody kept a spent token. End the session.
    ENDED = auto()  # The session is revoked or over, or its user disabled.


def decide_rotation(
    session: Session, token: PresentedToken, *, user_disabled: bool, now: datetime, grace: timedelta, ended: bool | None = None
) -> Rotation:
    """Order is taken from the counter, never from time stamps: two rotations may happen in the same instant.

    `now` must come from the clock that stamped `used_at`. `ended` says whether the session is over when another clock decides that.
    """
    over = now >= session.expires_at if ended is None else ended
    if session.revoked_at is not None or over or user_disabled:
        return Rotation.ENDED
    if token.used_at is None:
        return Rotation.SUCCESSOR
    if now - token.used_at > grace:
        return Rotation.REUSED
    return Rotation.SAME_SUCCESSOR if token.has_successor and token.latest == token.counter + 1 else Rotation.SUPERSEDED


@dataclass(frozen=True)
class RotationResult:
    """The outcome of a presentation; `refresh_token` is set when it succeeded."""

    rotation: Rotation
    session: Session
    user: User
    refresh_token: str = field(default="", repr=False)


@dataclass(frozen=True)
class IssuedTokens:
    """What a client gets at login and refresh."""

    access_token: str = field(repr=False)
    refresh_token: str = field(repr=False)
    expires_in: int
    session_id: UUID


@dataclass(frozen=True)
class Revocation:
    """A session or API key that ended before its time."""

    credential_id: UUID
    revoked_at: datetime


@dataclass(frozen=True)
class RaisedEpoch:
    """Access tokens of the user (without one: of the tenant) with a lower epoch are void."""

    tenant_id: UUID
    user_id: UUID | None
    epoch: int
    raised_at: datetime
