"""Opaque credentials: their formats, and what is stored of them.

Each holds at least 256 random bits, so that a plain SHA-256 is enough to store and to look it up. The prefixes let people and secret
scanners tell them apart; a credential of one kind never has the form of another.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import secrets
import string
from dataclasses import dataclass, field
from uuid import UUID

from wireroom_common.errors import invalid

_SECRET_BYTES = 32
_ID_ALPHABET = string.ascii_lowercase + string.digits
_ID_LENGTH = 8
_API_KEY = re.compile(r"wr_[a-z0-9]{8}_[A-Za-z0-9_-]{43}")
_REFRESH_TOKEN = re.compile(r"wr_rt_[A-Za-z0-9_-]{43}")
_INVITATION_TOKEN = re.compile(r"wr_inv_[A-Za-z0-9_-]{43}")


def new_admin_token() -> str:
    """A one-time admin token."""
    return f"wr_admin_{secrets.token_urlsafe(_SECRET_BYTES)}"


def new_refresh_token() -> str:
    """A refresh token."""
    return f"wr_rt_{secrets.token_urlsafe(_SECRET_BYTES)}"


def new_invitation_token() -> str:
    """The token of an invitation."""
    return f"wr_inv_{secrets.token_urlsafe(_SECRET_BYTES)}"


@dataclass(frozen=True)
class NewApiKey:
    """A key's visible start and its secret."""

    prefix: str
    secret: str = field(repr=False)


def new_api_key() -> NewApiKey:
    """An API key: `wr_` + 8 characters that are shown in lists + `_` + 43 secret characters."""
    visible = "".join(secrets.choice(_ID_ALPHABET) for _ in range(_ID_LENGTH))
    return NewApiKey(f"wr_{visible}", f"wr_{visible}_{secrets.token_urlsafe(_SECRET_BYTES)}")


def new_signing_secret() -> str:
    """A secret with which a client signs its requests (HMAC-SHA256): its ASCII bytes are the key."""
    return f"wr_sig_{secrets.token_urlsafe(_SECRET_BYTES)}"


def looks_like_api_key(text: str) -> bool:
    """Whether the text has the form of an API key."""
    return _API_KEY.fullmatch(text) is not None


def looks_like_refresh_token(text: str) -> bool:
    """Whether the text has the form of a refresh token."""
    return _REFRESH_TOKEN.fullmatch(text) is not None


def looks_like_invitation_token(text: str) -> bool:
    """Whether the text has the form of an invitation's token."""
    return _INVITATION_TOKEN.fullmatch(text) is not None


def digest(credential: str) -> bytes:
    """What is stored instead of the credential."""
    return hashlib.sha256(credential.encode()).digest()


def hex_digest_or_empty(text: str) -> str:
    """SHA-256 in hexadecimal of personal data that an event may only carry hashed; empty for empty."""
    return hashlib.sha256(text.encode()).hexdigest() if text else ""


def page_token_after(last_id: UUID) -> str:
    """The opaque token of the page that begins after the row `last_id`."""
    return base64.urlsafe_b64encode(last_id.bytes).decode().rstrip("=")


def read_page_token(token: str) -> UUID | None:
    """The row after which a page begins; None for the first page. INVALID for anything this service did not hand out."""
    if not token:
        return None
    try:
        last_id = UUID(bytes=base64.b64decode(token + "==", altchars=b"-_", validate=True))
    except (ValueError, binascii.Error):
        last_id = None
    if last_id is None or page_token_after(last_id) != token:
        raise invalid(
            "page_token_invalid", "The page token is not one that a list returned; start again without it.", field="page_token"
        )
    return last_id
