"""Users, and the forms of e-mail addresses and names that are stored."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from wireroom_auth.domain.permissions import grantable_to_keys, permissions_of, permissions_of_key
from wireroom_common.errors import invalid

DEFAULT_TENANT = "default"

_MAX_EMAIL = 254
_MAX_LOCAL_PART = 64
_MAX_NAME = 100
# Deliberately wide: whether an address exists only a mail can tell.
_EMAIL = re.compile(r"[^@\s]+@[^@\s]+")


@dataclass(frozen=True)
class User:
    """A person with an account. `disabled_at`: since when they may not sign in, be it that they or their tenant are disabled."""

    id: UUID
    tenant_id: UUID
    email: str
    name: str
    roles: tuple[str, ...]
    epoch: int
    created_at: datetime
    disabled_at: datetime | None = None
    # What the custom roles among `roles` give, as stored.
    custom_permissions: frozenset[str] = frozenset()
    tenant_epoch: int = 0
    email_verified_at: datetime | None = None
    # Whether a login asks for more than the password.
    second_factor: bool = False

    @property
    def permissions(self) -> frozenset[str]:
        """What the user may do when signed in."""
        return permissions_of(self.roles, self.custom_permissions)

    @property
    def grantable_to_keys(self) -> frozenset[str]:
        """What an API key of this user may name."""
        return grantable_to_keys(self.roles, self.custom_permissions)

    def permissions_of_key(self, named: Iterable[str]) -> frozenset[str]:
        """What a key of this user that names these permissions may do now."""
        return permissions_of_key(named, self.roles, self.custom_permissions)


@dataclass(frozen=True)
class Account:
    """A user together with the password's hash; None for an account that has no password (yet)."""

    user: User
    password_hash: str | None


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
