"""Which role grants which permissions.

Names are `resource:action` with an optional reach. Whoever holds the wide permission (`feeds:manage`) of a pair also holds the narrow
one (`…:own`, `…:tenant`, `…:summary`), so a route declares the narrowest that is enough.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType


class Role(StrEnum):
    """The seed roles."""

    ADMIN = "Admin"
    ANALYST = "Analyst"
    VIEWER = "Viewer"
    API_USER = "API User"
    PLATFORM_ADMIN = "platform_admin"


@dataclass(frozen=True)
class Grant:
    """What a role gives: always, and only to an API key that names the permission."""

    always: frozenset[str]
    by_key_scope: frozenset[str] = frozenset()


_EVERYONE = frozenset({"chat:use", "sessions:read:own", "sessions:write:own", "docs:read", "news:read", "usage:read:own"})

_VIEWER = _EVERYONE | {"watches:manage:own", "privacy:erase:self"}

_ANALYST = _VIEWER | {
    "llm:invoke",
    "docs:write",
    "collections:manage:own",
    "acl:manage:own",
    "feeds:manage",
    "usage:read:tenant",
    "apikeys:manage:own",
    "monitoring:read:summary",
}

_ADMIN = _ANALYST | {
    "sessions:read:tenant",
    "collections:manage",
    "acl:manage",
    "watches:manage",
    "webhooks:manage",
    "budgets:manage",
    "users:manage",
    "roles:manage",
    "apikeys:manage:tenant",
    "monitoring:read",
    "alerts:manage:tenant",
    "tasks:manage:tenant",
    "events:replay:tenant",
    "security:read",
    "audit:read",
    "providers:manage:own",
    "privacy:erase:tenant",
}

# The operator of the installation: no right to read content.
_PLATFORM_ADMIN = frozenset(
    {
        "news:read",
        "usage:read:own",
        "usage:read:tenant",
        "usage:read:all",
        "budgets:manage",
        "tenants:manage",
        "monitoring:read",
        "monitoring:read:summary",
        "alerts:manage",
        "alerts:manage:tenant",
        "tasks:manage",
        "tasks:manage:tenant",
        "events:replay",
        "events:replay:tenant",
        "security:read",
        "audit:read",
        "providers:manage",
        "providers:manage:own",
        "config:manage",
        "maintenance:run",
        "ip:manage",
    }
)

GRANTS: Mapping[str, Grant] = MappingProxyType(
    {
        Role.VIEWER: Grant(frozenset(_VIEWER)),
        Role.ANALYST: Grant(frozenset(_ANALYST)),
        Role.API_USER: Grant(_EVERYONE | {"llm:invoke"}, by_key_scope=frozenset({"docs:write", "feeds:manage"})),
        Role.ADMIN: Grant(frozenset(_ADMIN)),
        Role.PLATFORM_ADMIN: Grant(_PLATFORM_ADMIN),
    }
)

ALL_PERMISSIONS: frozenset[str] = frozenset().union(*(grant.always | grant.by_key_scope for grant in GRANTS.values()))


def permissions_of(roles: Iterable[str]) -> frozenset[str]:
    """The union of what the roles always give; unknown roles give nothing."""
    return frozenset().union(*(GRANTS[role].always for role in roles if role in GRANTS))


def grantable_to_keys(roles: Iterable[str]) -> frozenset[str]:
    """What an API key of an owner with these roles may name."""
    return frozenset().union(*(GRANTS[role].always | GRANTS[role].by_key_scope for role in roles if role in GRANTS))


def permissions_of_key(named: Iterable[str], owner_roles: Iterable[str]) -> frozenset[str]:
    """What a key may do now: its named permissions that its owner's roles still cover; naming none means all of the owner's."""
    roles = tuple(owner_roles)
    chosen = frozenset(named)
    return chosen & grantable_to_keys(roles) if chosen else permissions_of(roles)
