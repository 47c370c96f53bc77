"""Create a user."""

from __future__ import annotations

from dataclasses import dataclass, field

from wireroom_auth.domain.credentials import looks_like_invitation_token
from wireroom_auth.domain.identity import Account, User, normalise_email, normalise_name
from wireroom_auth.domain.invitations import Invitation, invitation_invalid
from wireroom_auth.domain.permissions import Role
from wireroom_auth.errors import admin_token_invalid, email_taken, registration_closed
from wireroom_auth.ports.accounts import Accounts
from wireroom_auth.ports.cryptography import PasswordHashing
from wireroom_auth.ports.directory import Invitations
from wireroom_common.clock import Clock
from wireroom_common.errors import invalid
from wireroom_common.ids import new_id


@dataclass(frozen=True)
class Registration:
    """What a person sends. Without one of the tokens registration must be open."""

    email: str
    name: str
    password: str = field(repr=False)
    admin_token: str = field(default="", repr=False)
    invitation_token: str = field(default="", repr=False)


@dataclass(frozen=True)
class _Admission:
    """Why somebody may register, and as what."""

    roles: tuple[str, ...]
    via: str
    invitation: Invitation | None = None


class Register:
    """With the one-time admin token: the operator. With an invitation: what it says. Without, if registration is open: a Viewer."""

    def __init__(
        self,
        accounts: Accounts,
        invitations: Invitations,
        passwords: PasswordHashing,
        clock: Clock,
        *,
        open_registration: bool,
    ) -> None:
        self._accounts = accounts
        self._invitations = invitations
        self._passwords = passwords
        self._clock = clock
        self._open = open_registration

    async def run(self, registration: Registration) -> User:
        """The new user; FORBIDDEN without a right to register, INVALID for bad fields, CONFLICT for a known address."""
        # First of all, so that strangers learn nothing about addresses and cost no hashing.
        admission = await self._admission(registration)
        email = normalise_email(registration.email)
        name = normalise_name(registration.name)
        invitation = admission.invitation
        if invitation is not None and invitation.email != email:
            raise invitation_invalid()
        password_hash = await self._passwords.hash_new(registration.password, email=email, name=name)
        if await self._accounts.by_email(email) is not None:
            raise email_taken()
        user = User(
            id=new_id(),
            tenant_id=invitation.tenant_id if invitation else await self._accounts.default_tenant(),
            email=email,
            name=name,
            roles=admission.roles,
            epoch=0,
            created_at=self._clock.now(),
        )
        account = Account(user, password_hash)
        if invitation is not None:
            await self._invitations.accept(invitation, registration.invitation_token, account)
        else:
            await self._accounts.add(account, via=admission.via, admin_token=registration.admin_token)
        # As others will read it, with what custom roles give.
        return await self._accounts.get(user.tenant_id, user.id) or user

    async def _admission(self, registration: Registration) -> _Admission:
        if registration.admin_token and registration.invitation_token:
            raise invalid("token_ambiguous", "Present the admin token or an invitation, not both.", field="invitation_token")
        if registration.admin_token:
            if not await self._accounts.is_admin_token(registration.admin_token):
                raise admin_token_invalid()
            return _Admission((Role.ADMIN.value, Role.PLATFORM_ADMIN.value), "admin_token")
        if registration.invitation_token:
            invitation = None
            if looks_like_invitation_token(registration.invitation_token):
                invitation = await self._invitations.find(registration.invitation_token, now=self._clock.now())
            if invitation is None:
                raise invitation_invalid()
            return _Admission(invitation.roles, "invitation", invitation)
        if not self._open:
            raise registration_closed()
        return _Admission((Role.VIEWER.value,), "open")
