"""Who may read: tokens of readers, the access of a document, the access list of a collection."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from uuid import UUID

from wireroom_common.errors import ErrorKind, WireroomError, invalid

MAX_GRANTS = 100
# Whoever may read documents (or news) in the tenant, and whoever manages all collections of it.
EVERYBODY = "*"
MANAGER = "manager"
_ROLE = re.compile(r"[^\x00-\x1f\x7f]{1,100}")


class Access(StrEnum):
    """Who reads a document beside its owner and the managers: everybody of the tenant, nobody, or readers of collections that hold it."""

    TENANT = "tenant"
    PRIVATE = "private"
    COLLECTIONS = "collections"


@dataclass(frozen=True)
class Grants:
    """Users and roles."""

    users: tuple[UUID, ...] = ()
    roles: tuple[str, ...] = ()

    def tokens(self) -> list[str]:
        """As they are stored."""
        return sorted({user_token(user) for user in self.users} | {role_token(role) for role in self.roles})

    @classmethod
    def of_tokens(cls, tokens: Iterable[str]) -> Grants:
        """The grants behind stored tokens."""
        parts = [token.partition(":") for token in sorted(tokens)]
        return cls(
            tuple(UUID(name) for kind, _, name in parts if kind == "user"),
            tuple(name for kind, _, name in parts if kind == "role"),
        )


@dataclass(frozen=True)
class Acl:
    """Beside owner and managers: `readers` read the collection and what it shares, `editors` also change what is in it."""

    owner_id: UUID
    public: bool
    readers: Grants
    editors: Grants
    version: int


def user_token(user_id: UUID) -> str:
    """The token of one user."""
    return f"user:{user_id}"


def role_token(role: str) -> str:
    """The token of a role's holders."""
    return f"role:{role}"


def readers_of(user_id: UUID, roles: Iterable[str], *, manages: bool) -> tuple[str, ...]:
    """All tokens by which a caller may read."""
    return (EVERYBODY, user_token(user_id), *sorted(role_token(role) for role in roles), *((MANAGER,) if manages else ()))


def checked_grants(users: Sequence[UUID], roles: Sequence[str], field: str) -> Grants:
    """INVALID for too many grants and for names that no role can have."""
    if len(users) + len(roles) > MAX_GRANTS:
        raise invalid(
            "acl_too_long", f"A list of access has at most {MAX_GRANTS} entries: give a role instead of users.", field=field
        )
    if not all(_ROLE.fullmatch(role) for role in roles):
        raise invalid("acl_role_invalid", "The name of a role has 1 to 100 printable characters.", field=field)
    return Grants(tuple(dict.fromkeys(users)), tuple(dict.fromkeys(roles)))


def document_not_owned(what: str) -> WireroomError:
    """Only its owner and managers do `what` to a document."""
    return WireroomError(
        ErrorKind.FORBIDDEN, "document_not_owned", f"Only its owner or an administrator may {what} this document."
    )
