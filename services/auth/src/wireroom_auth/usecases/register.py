"""Create a user."""

from __future__ import annotations

from dataclasses import dataclass, field

from wireroom_auth.domain.identity import Account, User, normalise_email, normalise_name
from wireroom_auth.domain.passwords import check_new_password
from wireroom_auth.domain.permissions import Role
from wireroom_auth.errors import admin_token_invalid, email_taken, registration_closed
from wireroom_auth.ports.accounts import Accounts
from wireroom_auth.ports.cryptography import PasswordHashing
from wireroom_common.clock import Clock
from wireroom_common.ids import new_id


@dataclass(frozen=True)
class Registration:
    """What a person sends. Without `admin_token` registration must be open."""

    email: str
    name: str
    password: str = field(repr=False)
    admin_token: str = field(default="", repr=False)


class Register:
    """With the one-time admin token: the operator. Without, if registration is open: a Viewer."""

    def __init__(self, accounts: Accounts, passwords: PasswordHashing, clock: Clock, *, open_registration: bool) -> None:
        self._accounts = accounts
        self._passwords = passwords
        self._clock = clock
        self._open = open_registration

    async def run(self, registration: Registration) -> User:
        """The new user; FORBIDDEN without a right to register, INVALID for bad fields, CONFLICT for a known address."""
        # First of all, so that strangers learn nothing about addresses and cost no hashing.
        roles, via = await self._admission(registration.admin_token)
        email = normalise_email(registration.email)
        name = normalise_name(registration.name)
        check_new_password(registration.password, email=email, name=name)
        if await self._accounts.by_email(email) is not None:
            raise email_taken()
        user = User(
            id=new_id(),
            tenant_id=await self._accounts.default_tenant(),
            email=email,
            name=name,
            roles=roles,
            epoch=0,
            created_at=self._clock.now(),
        )
        account = Account(user, await self._passwords.hash(registration.password))
        await self._accounts.add(account, via=via, admin_token=registration.admin_token)
        return user

    async def _admission(self, admin_token: str) -> tuple[tuple[str, ...], str]:
        if admin_token:
            if not await self._accounts.is_admin_token(admin_token):
                raise admin_token_invalid()
            return (Role.ADMIN.value, Role.PLATFORM_ADMIN.value), "admin_token"
        if not self._open:
            raise registration_closed()
        return (Role.VIEWER.value,), "open"
