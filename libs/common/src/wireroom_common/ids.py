"""Identifiers: UUIDv7, so that new rows land at the end of their index and ids sort by time."""

from __future__ import annotations

from uuid import UUID

from uuid_utils import uuid7 as native_uuid7
from uuid_utils.compat import uuid7

from wireroom_common.errors import invalid


def new_id() -> UUID:
    """A new UUIDv7."""
    return uuid7()


def new_hex_id() -> str:
    """A new UUIDv7 as 32 hexadecimal digits, without the detour over a `UUID`."""
    return native_uuid7().hex


def parse_id(text: str, what: str) -> UUID:
    """The UUID written in `text`; an INVALID error that names `what` otherwise."""
    try:
        return UUID(text)
    except ValueError:
        raise invalid("id_malformed", f"'{text[:64]}' is not the id of a {what}: a UUID is expected.", field="id") from None
