"""Users, roles, invitations and tenants, as administrators see them.

Each change is decided and written under a lock on the tenant, with what the caller holds at that moment: FORBIDDEN `permission_missing`
or `permission_exceeds_caller`, UNAUTHENTICATED `account_unavailable`. It is audited and told of in the same transaction.
"""

from __future__ import annotations

from datetime import datetime
from typing import Protocol
from uuid import UUID

from wireroom_auth.domain.directory import UserChange
from wireroom_auth.domain.erasure import ErasureOrder
from wireroom_auth.domain.identity import Account, User
from wireroom_auth.domain.invitations import Invitation
from wireroom_auth.domain.roles import RoleDefinition
from wireroom_auth.domain.tenants import Tenant, TenantChange
from wireroom_common.principal import Principal


class Users(Protocol):
    """The users of the caller's tenant."""

    async def create(self, caller: Principal, account: Account) -> User:
        """Store an account; INVALID `role_unknown`, CONFLICT `email_taken`."""

    async def page(self, tenant_id: UUID, *, query: str, before: UUID | None, limit: int) -> list[User]:
        """Newest first, from after the user `before`; only those with `query` in address or name."""

    async def update(self, caller: Principal, user_id: UUID, change: UserChange, *, now: datetime) -> User:
        """The user after the change. NOT_FOUND; CONFLICT `own_account`, `last_admin`, `last_operator`."""

    async def delete(self, caller: Principal, order: ErasureOrder) -> None:
        """Remove a user with all sessions and keys, and ask for the rest. Refused like `update`; INVALID `transfer_target_invalid`."""


class Roles(Protocol):
    """The custom roles of the caller's tenant."""

    async def put(self, caller: Principal, role: RoleDefinition, *, now: datetime, max_roles: int) -> None:
        """Store a role; tokens of its holders become void when it changes. CONFLICT `role_name_taken`, `role_limit_reached`."""

    async def all(self, tenant_id: UUID) -> list[RoleDefinition]:
        """All, by name."""

    async def delete(self, caller: Principal, name: str) -> None:
        """Remove a role; NOT_FOUND, CONFLICT `role_in_use`."""


class Invitations(Protocol):
    """Invitations into tenants."""

    async def create(self, caller: Principal, invitation: Invitation, token: str, *, max_pending: int) -> None:
        """Store an invitation in place of an earlier one to the same address, and send it if mail is configured.

        CONFLICT `email_taken`, `invitation_limit_reached`; by an operator also `tenant_has_admin`, and NOT_FOUND for the tenant.
        """

    async def page(self, tenant_id: UUID, *, before: UUID | None, limit: int) -> list[Invitation]:
        """Newest first, from after the invitation `before`."""

    async def revoke(self, caller: Principal, invitation_id: UUID) -> None:
        """Remove an invitation; NOT_FOUND, CONFLICT `invitation_accepted`."""

    async def find(self, token: str, *, now: datetime) -> Invitation | None:
        """The invitation with this token, in whichever tenant, if it could be accepted now."""

    async def accept(self, invitation: Invitation, token: str, account: Account) -> None:
        """Spend the invitation and store the account in one step.

        FORBIDDEN `invitation_invalid` if it was spent, withdrawn or lost its backing meanwhile; CONFLICT `email_taken`.
        """


class Tenants(Protocol):
    """All tenants."""

    async def create(self, caller: Principal, tenant: Tenant) -> None:
        """Store a tenant; CONFLICT `tenant_name_taken`."""

    async def page(self, *, before: UUID | None, limit: int) -> list[Tenant]:
        """Newest first, from after the tenant `before`."""

    async def update(self, caller: Principal, tenant_id: UUID, change: TenantChange, *, now: datetime) -> Tenant:
        """The tenant after the change; disabling voids all its tokens. NOT_FOUND; CONFLICT `tenant_name_taken`, `last_operator`."""
