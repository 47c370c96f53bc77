"""Domain values as protobuf messages."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from google.protobuf.timestamp_pb2 import Timestamp

from wireroom_auth.domain.api_keys import ApiKey
from wireroom_auth.domain.identity import User
from wireroom_auth.domain.sessions import IssuedTokens
from wireroom_protos.auth.v1 import auth_pb2


def timestamp(moment: datetime | None) -> Timestamp | None:
    """The same moment; None stays unset."""
    if moment is None:
        return None
    message = Timestamp()
    message.FromDatetime(moment)
    return message


def user_message(user: User, permissions: Iterable[str]) -> auth_pb2.User:
    """A user with what the caller may do."""
    return auth_pb2.User(
        id=str(user.id),
        tenant_id=str(user.tenant_id),
        email=user.email,
        name=user.name,
        roles=sorted(user.roles),
        permissions=sorted(permissions),
        created_at=timestamp(user.created_at),
        disabled_at=timestamp(user.disabled_at),
        email_verified_at=timestamp(user.email_verified_at),
        second_factor=user.second_factor,
    )


def tokens_message(tokens: IssuedTokens) -> auth_pb2.Tokens:
    """A pair of tokens."""
    return auth_pb2.Tokens(
        access_token=tokens.access_token,
        refresh_token=tokens.refresh_token,
        expires_in=tokens.expires_in,
        session_id=str(tokens.session_id),
    )


def key_message(key: ApiKey, now: datetime) -> auth_pb2.ApiKey:
    """A key without its secrets."""
    overlaps = key.previous_until is not None and key.previous_until > now
    return auth_pb2.ApiKey(
        id=str(key.id),
        name=key.name,
        prefix=key.prefix,
        permissions=key.permissions,
        created_at=timestamp(key.created_at),
        expires_at=timestamp(key.expires_at),
        last_used_at=timestamp(key.last_used_at),
        owner_id=str(key.owner_id),
        limits=dict(key.limits),
        budget_day_micros=key.budget_day_micros,
        budget_month_micros=key.budget_month_micros,
        signature_required=key.signature_required,
        previous_secret_until=timestamp(key.previous_until) if overlaps else None,
    )
