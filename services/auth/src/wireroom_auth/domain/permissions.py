"""Which role grants which permissions.

Names are `resource:action` with an optional reach. Whoever holds the wide permission (`feeds:manage`) of a pair also holds the narrow
one (`…:own`, `…:tenant`, `…:summary`), so a route declares the narrowest that is enough.

A tenant's custom roles are sets of permissions too; what they give is loaded together with the user (`User.custom_permissions`).
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
    "assistants:manage",
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
        "audit:read:all",
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

# What each permission is for, in one line.
DESCRIPTIONS: Mapping[str, str] = MappingProxyType(
    {
        "chat:use": "Ask questions through the native chat",
        "llm:invoke": "Call models through the OpenAI-compatible routes",
        "sessions:read:own": "Read one's own chat sessions",
        "sessions:write:own": "Create, change and delete one's own chat sessions",
        "sessions:read:tenant": "Read the chat sessions of everybody in the tenant; each reading is audited",
        "docs:read": "Read and search documents that their access list shows",
        "docs:write": "Upload documents and delete one's own",
        "collections:manage:own": "Manage one's own collections",
        "collections:manage": "Manage all collections of the tenant",
        "acl:manage:own": "Decide who sees one's own collections",
        "acl:manage": "Decide who sees any collection of the tenant",
        "news:read": "Read and search news",
        "feeds:manage": "Add, change and remove feeds",
        "watches:manage:own": "Manage one's own watches",
        "watches:manage": "Manage all watches of the tenant",
        "webhooks:manage": "Manage webhooks",
        "usage:read:own": "See one's own usage",
        "usage:read:tenant": "See the usage of the tenant",
        "usage:read:all": "See the usage of all tenants",
        "budgets:manage": "Set budgets",
        "assistants:manage": "Define assistants: prompts, sources, tools, and who gets which version",
        "users:manage": "Create, invite, change, disable and delete users of the tenant",
        "roles:manage": "Define the tenant's custom roles",
        "tenants:manage": "Create, rename and disable tenants, and invite the first Admin of one",
        "apikeys:manage:own": "Manage one's own API keys",
        "apikeys:manage:tenant": "Manage the API keys of everybody in the tenant",
        "monitoring:read:summary": "See the summary of health and performance",
        "monitoring:read": "See all of monitoring",
        "alerts:manage:tenant": "Manage the tenant's alerts",
        "alerts:manage": "Manage the alerts of the installation",
        "tasks:manage:tenant": "Manage the tenant's tasks",
        "tasks:manage": "Manage the tasks of the installation",
        "events:replay:tenant": "Replay the tenant's events",
        "events:replay": "Replay events of the installation",
        "security:read": "See the security score and what lowers it",
        "audit:read": "Read and verify the audit trail",
        "audit:read:all": "Read and verify the audit trail of the installation",
        "providers:manage:own": "Manage the tenant's own provider keys",
        "providers:manage": "Manage the providers of the installation",
        "config:manage": "See and change the configuration of the installation",
        "maintenance:run": "Run maintenance",
        "ip:manage": "Make, list and lift blocks of client addresses",
        "privacy:erase:self": "Export and erase one's own data",
        "privacy:erase:tenant": "Export and erase the data of others in the tenant",
    }
)

# The narrow permissions that come with a wide one.
IMPLIED: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        "sessions:read:tenant": frozenset({"sessions:read:own"}),
        "collections:manage": frozenset({"collections:manage:own"}),
        "acl:manage": frozenset({"acl:manage:own"}),
        "watches:manage": frozenset({"watches:manage:own"}),
        "usage:read:tenant": frozenset({"usage:read:own"}),
        "usage:read:all": frozenset({"usage:read:tenant", "usage:read:own"}),
        "apikeys:manage:tenant": frozenset({"apikeys:manage:own"}),
        "monitoring:read": frozenset({"monitoring:read:summary"}),
        "alerts:manage": frozenset({"alerts:manage:tenant"}),
        "tasks:manage": frozenset({"tasks:manage:tenant"}),
        "events:replay": frozenset({"events:replay:tenant"}),
        "audit:read:all": frozenset({"audit:read"}),
        "providers:manage": frozenset({"providers:manage:own"}),
        "privacy:erase:tenant": frozenset({"privacy:erase:self"}),
    }
)

ALL_PERMISSIONS: frozenset[str] = frozenset().union(*(grant.always | grant.by_key_scope for grant in GRANTS.values()))

# What a role inside a tenant can give: nothing that reaches beyond it.
TENANT_PERMISSIONS: frozenset[str] = frozenset().union(
    *(grant.always | grant.by_key_scope for role, grant in GRANTS.items() if role != Role.PLATFORM_ADMIN)
)


def permissions_of(roles: Iterable[str], custom: Iterable[str] = ()) -> frozenset[str]:
    """The union of what the built-in roles always give and what custom roles give (`custom`); unknown roles give nothing."""
    built_in = frozenset().union(*(GRANTS[role].always for role in roles if role in GRANTS))
    return built_in | (TENANT_PERMISSIONS & frozenset(custom))


def grantable_to_keys(roles: Iterable[str], custom: Iterable[str] = ()) -> frozenset[str]:
    """What an API key of an owner with these roles, and `custom` from custom roles, may name."""
    built_in = frozenset().union(*(GRANTS[role].always | GRANTS[role].by_key_scope for role in roles if role in GRANTS))
    return built_in | (TENANT_PERMISSIONS & frozenset(custom))


def permissions_of_key(named: Iterable[str], owner_roles: Iterable[str], owner_custom: Iterable[str] = ()) -> frozenset[str]:
    """What a key may do now: its named permissions that its owner's roles still cover; naming none means all of the owner's."""
    roles, custom, chosen = tuple(owner_roles), frozenset(owner_custom), frozenset(named)
    return chosen & grantable_to_keys(roles, custom) if chosen else permissions_of(roles, custom)


def with_implied(permissions: Iterable[str]) -> frozenset[str]:
    """The permissions and the narrow ones that come with them."""
    given = frozenset(permissions)
    return given.union(*(IMPLIED.get(permission, frozenset()) for permission in given))
