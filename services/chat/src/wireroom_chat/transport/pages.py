"""Page sizes and opaque cursors."""

from __future__ import annotations

import base64
import binascii
import json
from datetime import datetime
from uuid import UUID

from wireroom_common.errors import WireroomError, invalid

MAX_PAGE = 200
_DEFAULT_PAGE = 50
_MAX_TOKEN = 256
_MAX_NUMBER = 2**62


def page_size(asked: int) -> int:
    """At least 1, at most 200; 0 means 50. INVALID below 0."""
    if asked < 0:
        raise invalid("page_size_invalid", "The page size must not be negative.", field="page_size")
    return min(asked, MAX_PAGE) or _DEFAULT_PAGE


def encode(*parts: str) -> str:
    """An opaque token."""
    return base64.urlsafe_b64encode(json.dumps(parts).encode()).decode().rstrip("=")


def decode_moment(token: str) -> tuple[datetime, UUID] | None:
    """None for an empty token; INVALID for one that did not come from `encode(moment, id)`."""
    if not token:
        return None
    moment, text = _decode(token, 2)
    try:
        result = datetime.fromisoformat(moment), UUID(text)
    except ValueError:
        raise _bad() from None
    if result[0].tzinfo is None:
        raise _bad()
    return result


def decode_number(token: str) -> int | None:
    """None for an empty token; INVALID for one that did not come from `encode(number)`."""
    if not token:
        return None
    (text,) = _decode(token, 1)
    if not text.isascii() or not text.isdigit() or len(text) > len(str(_MAX_NUMBER)):
        raise _bad()
    return min(int(text), _MAX_NUMBER)


def _decode(token: str, count: int) -> list[str]:
    try:
        if len(token) > _MAX_TOKEN:
            raise _bad()
        parts = json.loads(base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True))
    except (ValueError, binascii.Error, RecursionError):
        raise _bad() from None
    if not isinstance(parts, list) or len(parts) != count or not all(isinstance(part, str) for part in parts):
        raise _bad()
    return parts


def _bad() -> WireroomError:
    return invalid("page_token_invalid", "The page token is not one that this list gave out.", field="page_token")
