"""Invitations into a tenant."""

from __future__ import annotations

from collections.abc import Sequence

from wireroom_auth.domain.credentials import new_invitation_token
from wireroom_auth.domain.directory import MANAGE_TENANTS, MANAGE_USERS
from wireroom_auth.domain.identity import normalise_email
from wireroom_auth.domain.invitations import Invitation, check_operators_roles, life
from wireroom_auth.domain.roles import role_names
from wireroom_auth.errors import account_unavailable
from wireroom_auth.ports.accounts import Accounts
from wireroom_auth.ports.directory import Invitations
from wireroom_auth.usecases.paging import page_of
from wireroom_common.clock import Clock
from wireroom_common.ids import new_id, parse_id
from wireroom_common.principal import Principal


class ManageInvitations:
    """Administrators invite into their own tenant; operators invite the first Admin of another one, and see nothing of it."""

    def __init__(self, invitations: Invitations, accounts: Accounts, clock: Clock, *, max_pending: int) -> None:
        self._invitations = invitations
        self._accounts = accounts
        self._clock = clock
        self._max_pending = max_pending

    async def create(
        self, caller: Principal, email: str, roles: Sequence[str], ttl_seconds: int, tenant_id: str
    ) -> tuple[Invitation, str]:
        """The invitation and its token, which is not kept. `tenant_id` empty for the caller's own tenant."""
        target = parse_id(tenant_id, "tenant") if tenant_id else caller.tenant()
        by_operator = target != caller.tenant()
        caller.require(MANAGE_TENANTS if by_operator else MANAGE_USERS)
        names = role_names(roles)
        if by_operator:
            check_operators_roles(names)
            await self._require_operator(caller)
        now = self._clock.now()
        invitation = Invitation(
            id=new_id(),
            tenant_id=target,
            email=normalise_email(email),
            roles=names,
            invited_by=caller.user_id(),
            by_operator=by_operator,
            created_at=now,
            expires_at=now + life(ttl_seconds),
        )
        token = new_invitation_token()
        await self._invitations.create(caller, invitation, token, max_pending=self._max_pending)
        return invitation, token

    async def page(self, caller: Principal, page_size: int, page_token: str) -> tuple[list[Invitation], str]:
        """Newest first, those that were accepted or have expired included."""
        caller.require(MANAGE_USERS)
        tenant_id = caller.tenant()
        return await page_of(
            lambda before, limit: self._invitations.page(tenant_id, before=before, limit=limit), page_size, page_token
        )

    async def revoke(self, caller: Principal, invitation_id: str) -> None:
        """Withdraw an invitation; NOT_FOUND, CONFLICT once it was accepted."""
        caller.require(MANAGE_USERS)
        await self._invitations.revoke(caller, parse_id(invitation_id, "invitation"))

    async def _require_operator(self, caller: Principal) -> None:
        actor = await self._accounts.get(caller.tenant(), caller.user_id())
        if actor is None or actor.disabled_at is not None or MANAGE_TENANTS not in actor.permissions:
            raise account_unavailable()
