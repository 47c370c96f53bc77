"""The claims of an access token."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from wireroom_auth.domain.identity import User
from wireroom_auth.domain.permissions import permissions_of
from wireroom_auth.domain.sessions import Session

ISSUER = "wireroom"
AUDIENCE = "wireroom"


def access_claims(user: User, session: Session, *, token_id: UUID, now: datetime, expires_at: datetime) -> dict[str, Any]:
    """Claims after RFC 9068, with tenant (`tid`), session (`sid`), `perms` and the user's `epoch` added. Times in whole seconds."""
    issued = int(now.timestamp())
    return {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": str(user.id),
        "tid": str(user.tenant_id),
        "sid": str(session.id),
        "jti": str(token_id),
        "roles": sorted(user.roles),
        "perms": sorted(permissions_of(user.roles)),
        "epoch": user.epoch,
        "iat": issued,
        "nbf": issued,
        "exp": int(expires_at.timestamp()),
    }
