"""The roles of a tenant."""

from __future__ import annotations

from collections.abc import Sequence

from wireroom_auth.domain.directory import MANAGE_ROLES
from wireroom_auth.domain.roles import BUILT_IN_ROLES, RoleDefinition, built_in_role, custom_role, is_built_in, is_role_name
from wireroom_auth.ports.directory import Roles
from wireroom_common.clock import Clock
from wireroom_common.errors import not_found
from wireroom_common.principal import Principal


class ManageRoles:
    """Built-in roles cannot be changed; custom ones give no more than who defines them holds."""

    def __init__(self, roles: Roles, clock: Clock, *, max_roles: int) -> None:
        self._roles = roles
        self._clock = clock
        self._max_roles = max_roles

    async def put(self, caller: Principal, name: str, permissions: Sequence[str]) -> RoleDefinition:
        """The role as it is stored: with what its permissions imply. INVALID, FORBIDDEN, CONFLICT; see `Roles.put`."""
        caller.require(MANAGE_ROLES)
        role = custom_role(name, permissions)
        await self._roles.put(caller, role, now=self._clock.now(), max_roles=self._max_roles)
        return role

    async def all(self, caller: Principal) -> list[RoleDefinition]:
        """The built-in roles, then the tenant's own by name."""
        caller.require(MANAGE_ROLES)
        return [*BUILT_IN_ROLES, *await self._roles.all(caller.tenant())]

    async def delete(self, caller: Principal, name: str) -> None:
        """Remove a custom role; CONFLICT `role_built_in`, `role_in_use`; NOT_FOUND."""
        caller.require(MANAGE_ROLES)
        if is_built_in(name):
            raise built_in_role(name)
        if not is_role_name(name):
            raise not_found("role")
        await self._roles.delete(caller, name)
