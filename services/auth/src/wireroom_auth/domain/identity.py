"""Users, and the forms of e-mail addresses and names that are stored."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from wireroom_common.errors import invalid

DEFAULT_TENANT = "default"

_MAX_EMAIL = 254
_MAX_LOCAL_PART = 64
_MAX_NAME = 100
# Deliberately wide: whether an address exists only a mail can tell.
_EMAIL = re.compile(r"[^@\s]+@[^@\s]+")


@dataclass(frozen=True)
class User:
    """A person with an account."""

    id: UUID
    tenant_id: UUID
    email: str
    name: str
    roles: tuple[str, ...]
    epoch: int
    created_at: datetime
    disabled_at: datetime | None = None


@dataclass(frozen=True)
class Account:
    """A user together with the password's hash."""

    user: User
    password_hash: str


def normalise_email(text: str) -> str:
    """The stored form: NFC, lower case, no surrounding space. INVALID if it cannot be an address."""
    email = unicodedata.normalize("NFC", text).strip().lower()
    local, _, domain = email.rpartition("@")
    if (
        len(email) > _MAX_EMAIL
        or len(local) > _MAX_LOCAL_PART
        or not domain
        or not _EMAIL.fullmatch(email)
        or has_control_characters(email)
    ):
        raise invalid("email_malformed", "This is not an e-mail address; write it like name@example.org.", field="email")
    return email


def normalise_name(text: str, what: str = "name") -> str:
    """A display name without surrounding space, at most 100 characters; INVALID with control characters or too long."""
    name = unicodedata.normalize("NFC", text).strip()
    if len(name) > _MAX_NAME or has_control_characters(name):
        raise invalid(
            f"{what}_malformed", f"The {what} may have at most {_MAX_NAME} characters and no control characters.", field=what
        )
    return name


def has_control_characters(text: str) -> bool:
    """Whether the text holds control characters or lone surrogates, which neither people nor the database can handle."""
    return any(unicodedata.category(character) in ("Cc", "Cs") for character in text)
