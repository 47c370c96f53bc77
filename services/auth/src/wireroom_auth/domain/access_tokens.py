"""The claims of an access token."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any
from uuid import UUID

from wireroom_auth.domain.api_keys import OwnedKey
from wireroom_auth.domain.identity import User
from wireroom_auth.domain.sessions import Session

ISSUER = "wireroom"
AUDIENCE = "wireroom"


def access_claims(user: User, session: Session, *, token_id: UUID, now: datetime, expires_at: datetime) -> dict[str, Any]:
    """Claims after RFC 9068, and `tid` (tenant), `sid` (session), `perms`, `epoch` and `tepoch` (the tenant's); in whole seconds."""
    issued = int(now.timestamp())
    return {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": str(user.id),
        "tid": str(user.tenant_id),
        "sid": str(session.id),
        "jti": str(token_id),
        "roles": sorted(user.roles),
        "perms": sorted(user.permissions),
        "epoch": user.epoch,
        "tepoch": user.tenant_epoch,
        "iat": issued,
        "nbf": issued,
        "exp": int(expires_at.timestamp()),
    }


def client_claims(
    owned: OwnedKey, permissions: Iterable[str], *, token_id: UUID, now: datetime, expires_at: datetime
) -> dict[str, Any]:
    """Claims of a token that an API key was exchanged for.

    `sid` and `client_id` are the key's id, so that revoking the key ends its tokens; `kind` tells them from those of a session.
    """
    issued = int(now.timestamp())
    return {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": str(owned.owner.id),
        "tid": str(owned.owner.tenant_id),
        "sid": str(owned.key.id),
        "client_id": str(owned.key.id),
        "kind": "api_key",
        "jti": str(token_id),
        "roles": sorted(owned.owner.roles),
        "perms": sorted(permissions),
        "epoch": owned.owner.epoch,
        "tepoch": owned.owner.tenant_epoch,
        "iat": issued,
        "nbf": issued,
        "exp": int(expires_at.timestamp()),
    }
