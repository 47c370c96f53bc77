"""Roles by name: the built-in ones, and a tenant's own as sets of permissions."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from wireroom_auth.domain.permissions import ALL_PERMISSIONS, GRANTS, TENANT_PERMISSIONS, with_implied
from wireroom_common.errors import ErrorKind, WireroomError, invalid

MAX_ROLES_PER_USER = 20
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9 ._-]{0,62}[A-Za-z0-9])?")
_BUILT_IN = {name.casefold() for name in GRANTS}


@dataclass(frozen=True)
class RoleDefinition:
    """A role and what it always gives."""

    name: str
    permissions: frozenset[str]
    built_in: bool = False


BUILT_IN_ROLES = tuple(RoleDefinition(str(name), grant.always, built_in=True) for name, grant in GRANTS.items())


def custom_role(name: str, permissions: Collection[str]) -> RoleDefinition:
    """A role that a tenant may define; what a wide permission implies is added. INVALID for anything else."""
    if not is_role_name(name):
        raise invalid(
            "role_name_malformed",
            "A role's name has 1 to 64 letters, digits, spaces, dots, hyphens or underscores, and begins and ends with a letter or digit.",
            field="name",
        )
    if name.casefold() in _BUILT_IN:
        raise built_in_role(name)
    wanted = frozenset(permissions)
    if not wanted:
        raise invalid("permissions_missing", "Name at least one permission that the role gives.", field="permissions")
    if unknown := sorted(wanted - ALL_PERMISSIONS):
        raise invalid("permission_unknown", f"There is no permission '{unknown[0][:64]}'.", field="permissions")
    if beyond := sorted(wanted - TENANT_PERMISSIONS):
        raise invalid(
            "permission_beyond_tenant",
            f"'{beyond[0]}' reaches beyond the tenant; only the role platform_admin can give it.",
            field="permissions",
        )
    return RoleDefinition(name, with_implied(wanted))


def is_role_name(name: str) -> bool:
    """Whether a role could have this name."""
    return _NAME.fullmatch(name) is not None


def is_built_in(name: str) -> bool:
    """Whether a built-in role has this name, in whichever case."""
    return name.casefold() in _BUILT_IN


def built_in_role(name: str) -> WireroomError:
    """A built-in role is to be changed."""
    return WireroomError(
        ErrorKind.CONFLICT,
        "role_built_in",
        f"The role '{name}' comes with the software and cannot be changed; take another name.",
    )


def role_names(names: Iterable[str]) -> tuple[str, ...]:
    """The names in stored order, each once; INVALID for none, too many, or what cannot be one."""
    chosen = sorted(set(names))
    if not chosen:
        raise invalid("roles_missing", "Name at least one role.", field="roles")
    if len(chosen) > MAX_ROLES_PER_USER:
        raise invalid("roles_too_many", f"A user can have at most {MAX_ROLES_PER_USER} roles.", field="roles")
    for name in chosen:
        if not is_role_name(name):
            raise role_unknown(name)
    return tuple(chosen)


def role_unknown(name: str) -> WireroomError:
    """The tenant has no such role."""
    return invalid("role_unknown", f"There is no role '{name[:64]}'; the list of roles shows which there are.", field="roles")


def reach_of(names: Iterable[str], custom: Mapping[str, Collection[str]]) -> frozenset[str]:
    """All that the roles can give, be it only to API keys. `custom`: the tenant's own roles. INVALID `role_unknown`."""
    reach: set[str] = set()
    for name in names:
        if name in GRANTS:
            reach |= GRANTS[name].always | GRANTS[name].by_key_scope
        elif name in custom:
            reach |= TENANT_PERMISSIONS.intersection(custom[name])
        else:
            raise role_unknown(name)
    return frozenset(reach)


def require_covered(reach: Collection[str], held: Collection[str]) -> None:
    """FORBIDDEN unless who hands out `reach` (or takes it away) holds all of it."""
    if exceeding := sorted(set(reach) - set(held)):
        raise WireroomError(
            ErrorKind.FORBIDDEN,
            "permission_exceeds_caller",
            f"This needs all permissions that are given or taken by it; you do not hold '{exceeding[0]}'.",
        )
