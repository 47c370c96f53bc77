"""The tenants of the installation."""

from __future__ import annotations

from dataclasses import replace

from wireroom_auth.domain.directory import MANAGE_TENANTS
from wireroom_auth.domain.tenants import Tenant, TenantChange, tenant_name
from wireroom_auth.errors import account_unavailable
from wireroom_auth.ports.accounts import Accounts
from wireroom_auth.ports.directory import Tenants
from wireroom_auth.usecases.paging import page_of
from wireroom_common.clock import Clock
from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_common.ids import new_id, parse_id
from wireroom_common.principal import Principal


class ManageTenants:
    """For operators. What a tenant holds is not theirs to see."""

    def __init__(self, tenants: Tenants, accounts: Accounts, clock: Clock) -> None:
        self._tenants = tenants
        self._accounts = accounts
        self._clock = clock

    async def create(self, caller: Principal, name: str) -> Tenant:
        """An empty tenant; its first Admin is invited. CONFLICT `tenant_name_taken`."""
        await self._require(caller)
        tenant = Tenant(new_id(), tenant_name(name), self._clock.now())
        await self._tenants.create(caller, tenant)
        return tenant

    async def page(self, caller: Principal, page_size: int, page_token: str) -> tuple[list[Tenant], str]:
        """Newest first."""
        caller.require(MANAGE_TENANTS)
        return await page_of(lambda before, limit: self._tenants.page(before=before, limit=limit), page_size, page_token)

    async def update(self, caller: Principal, tenant_id: str, change: TenantChange) -> Tenant:
        """The tenant after the change; NOT_FOUND, CONFLICT `own_tenant`, `tenant_name_taken`, `default_tenant`, `last_operator`."""
        await self._require(caller)
        wanted = parse_id(tenant_id, "tenant")
        if change.name is not None:
            change = replace(change, name=tenant_name(change.name))
        if change.disabled and wanted == caller.tenant():
            raise WireroomError(
                ErrorKind.CONFLICT, "own_tenant", "You cannot disable the tenant you belong to: it would lock you out."
            )
        return await self._tenants.update(caller, wanted, change, now=self._clock.now())

    async def _require(self, caller: Principal) -> None:
        """What the caller holds now, not when the token was issued."""
        caller.require(MANAGE_TENANTS)
        actor = await self._accounts.get(caller.tenant(), caller.user_id())
        if actor is None or actor.disabled_at is not None:
            raise account_unavailable()
        replace(caller, permissions=caller.permissions & actor.permissions).require(MANAGE_TENANTS)
