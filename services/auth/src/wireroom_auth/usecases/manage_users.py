"""Users, as an administrator of their tenant manages them."""

from __future__ import annotations

from dataclasses import replace
from uuid import UUID

from wireroom_auth.domain.directory import MANAGE_USERS, NewUser, UserChange
from wireroom_auth.domain.identity import Account, User, normalise_email, normalise_name
from wireroom_auth.domain.password_hashes import check_importable
from wireroom_auth.domain.roles import role_names
from wireroom_auth.ports.accounts import Accounts
from wireroom_auth.ports.cryptography import PasswordHashing
from wireroom_auth.ports.directory import Users
from wireroom_auth.usecases.erasure_orders import ErasureOrders
from wireroom_auth.usecases.paging import page_of
from wireroom_common.clock import Clock
from wireroom_common.errors import invalid, not_found
from wireroom_common.ids import new_id, parse_id
from wireroom_common.principal import Principal

_LONGEST_QUERY = 200


class ManageUsers:
    """All within the caller's tenant: users of others look as if they were not there."""

    def __init__(self, users: Users, accounts: Accounts, passwords: PasswordHashing, clock: Clock, orders: ErasureOrders) -> None:
        self._users = users
        self._accounts = accounts
        self._passwords = passwords
        self._clock = clock
        self._orders = orders

    async def create(self, caller: Principal, new: NewUser) -> User:
        """The new user; INVALID for bad fields, FORBIDDEN for roles beyond the caller, CONFLICT for a known address."""
        caller.require(MANAGE_USERS)
        email = normalise_email(new.email)
        name = normalise_name(new.name)
        roles = role_names(new.roles)
        if new.password and new.password_hash:
            raise invalid("password_ambiguous", "Give a password or the hash of one, not both.", field="password_hash")
        password_hash = new.password_hash or None
        if password_hash is not None:
            check_importable(password_hash)
        elif new.password:
            password_hash = await self._passwords.hash_new(new.password, email=email, name=name)
        user = User(
            id=new_id(),
            tenant_id=caller.tenant(),
            email=email,
            name=name,
            roles=roles,
            epoch=0,
            created_at=self._clock.now(),
        )
        return await self._users.create(caller, Account(user, password_hash))

    async def get(self, caller: Principal, user_id: str) -> User:
        """A user; NOT_FOUND."""
        caller.require(MANAGE_USERS)
        user = await self._accounts.get(caller.tenant(), parse_id(user_id, "user"))
        if user is None:
            raise not_found("user")
        return user

    async def page(self, caller: Principal, query: str, page_size: int, page_token: str) -> tuple[list[User], str]:
        """Newest first; `query` is a part of the address or name."""
        caller.require(MANAGE_USERS)
        if len(query) > _LONGEST_QUERY or "\x00" in query:
            raise invalid("query_malformed", f"Search for at most {_LONGEST_QUERY} characters, without NUL.", field="query")
        tenant_id = caller.tenant()
        return await page_of(
            lambda before, limit: self._users.page(tenant_id, query=query.strip(), before=before, limit=limit),
            page_size,
            page_token,
        )

    async def update(self, caller: Principal, user_id: str, change: UserChange) -> User:
        """The user after the change; see `Users.update`."""
        caller.require(MANAGE_USERS)
        wanted = parse_id(user_id, "user")
        if change.name is not None:
            change = replace(change, name=normalise_name(change.name))
        if change.roles is not None:
            change = replace(change, roles=role_names(change.roles))
        return await self._users.update(caller, wanted, change, now=self._clock.now())

    async def delete(self, caller: Principal, user_id: str, *, erase_shared: bool, transfer_to: str) -> UUID:
        """Remove a user; the id of the erasure that follows. What the user shared goes to `transfer_to`, by default the caller.

        See `Users.delete`.
        """
        caller.require(MANAGE_USERS)
        if erase_shared and transfer_to:
            raise invalid("transfer_ambiguous", "Have what the user shared erased, or name who gets it, not both.", field="to")
        heir = parse_id(transfer_to, "user") if transfer_to else caller.user_id()
        order = self._orders.of_user(
            caller.tenant(), parse_id(user_id, "user"), requested_by=caller.subject, transfer_to=None if erase_shared else heir
        )
        await self._users.delete(caller, order)
        return order.id
