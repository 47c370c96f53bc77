"""Erase oneself, or one's tenant; and see how far an erasure is."""

from __future__ import annotations

import secrets
from datetime import timedelta

from wireroom_auth.domain.credentials import digest
from wireroom_auth.domain.erasure import ERASE_SELF, ERASE_TENANT, Erasure
from wireroom_auth.domain.second_factor import code_invalid
from wireroom_auth.ports.erasures import ErasureCounts, Erasures
from wireroom_auth.ports.factor_store import FactorStore
from wireroom_auth.usecases.erasure_orders import ErasureOrders
from wireroom_auth.usecases.paging import page_of
from wireroom_auth.usecases.password_proof import PasswordProof
from wireroom_common.clock import Clock
from wireroom_common.errors import not_found
from wireroom_common.ids import parse_id
from wireroom_common.principal import Principal

_TOKEN_BYTES = 32


class FullProof:
    """The password and, where one is in force, the second factor: for what cannot be taken back."""

    def __init__(self, proof: PasswordProof, factors: FactorStore) -> None:
        self._proof = proof
        self._factors = factors

    async def require(self, caller: Principal, password: str, code: str) -> None:
        """UNAUTHENTICATED `mfa_code_invalid`; see `PasswordProof.proven`. The code is spent."""
        user = await self._proof.proven(caller, password)
        if user.second_factor and not await self._factors.prove(user, code):
            await self._proof.count_failure(user)
            raise code_invalid()


class EraseMe:
    """The account is gone when this returns; the other services follow."""

    def __init__(self, erasures: Erasures, proof: FullProof, orders: ErasureOrders) -> None:
        self._erasures = erasures
        self._proof = proof
        self._orders = orders

    async def run(self, caller: Principal, password: str, code: str) -> tuple[Erasure, str]:
        """The erasure and the token that opens it when its subject is gone; see `Erasures.erase_self` and `FullProof.require`."""
        caller.require(ERASE_SELF)
        await self._proof.require(caller, password, code)
        token = new_erasure_token()
        order = self._orders.of_user(caller.tenant(), caller.user_id(), requested_by=caller.subject, token_hash=digest(token))
        return await self._erasures.erase_self(caller, order), token


class EraseTenant:
    """The tenant and its users are gone when this returns; the other services follow."""

    def __init__(self, erasures: Erasures, proof: FullProof, orders: ErasureOrders) -> None:
        self._erasures = erasures
        self._proof = proof
        self._orders = orders

    async def run(self, caller: Principal, name: str, password: str, code: str) -> tuple[Erasure, str]:
        """The erasure and the token that opens it; see `Erasures.erase_tenant` and `FullProof.require`."""
        caller.require(ERASE_TENANT)
        await self._proof.require(caller, password, code)
        token = new_erasure_token()
        order = self._orders.of_tenant(caller.tenant(), requested_by=caller.subject, token_hash=digest(token))
        return await self._erasures.erase_tenant(caller, order, name), token


class ReadErasures:
    """For who asked, who may erase in the tenant, and who has the token."""

    def __init__(self, erasures: Erasures) -> None:
        self._erasures = erasures

    async def get(self, caller: Principal, erasure_id: str) -> Erasure:
        """NOT_FOUND for what the caller has nothing to do with."""
        found = await self._erasures.get(caller.tenant(), parse_id(erasure_id, "erasure"))
        if found is None or (found.requested_by != caller.subject and ERASE_TENANT not in caller.permissions):
            raise not_found("erasure")
        return found

    async def opened(self, erasure_id: str, token: str) -> Erasure:
        """NOT_FOUND for a wrong token."""
        found = await self._erasures.opened(parse_id(erasure_id, "erasure"), digest(token))
        if found is None:
            raise not_found("erasure")
        return found

    async def page(self, caller: Principal, page_size: int, page_token: str) -> tuple[list[Erasure], str]:
        """Newest first."""
        caller.require(ERASE_TENANT)
        tenant_id = caller.tenant()
        return await page_of(
            lambda before, limit: self._erasures.page(tenant_id, before=before, limit=limit), page_size, page_token
        )


class FollowErasures:
    """Asks services that have not answered again, and shows what is overdue."""

    def __init__(self, erasures: Erasures, counts: ErasureCounts, clock: Clock, *, every: timedelta) -> None:
        self._erasures = erasures
        self._counts = counts
        self._clock = clock
        self._every = every

    async def run(self) -> None:
        """Harmless on several replicas: asking twice changes nothing."""
        now = self._clock.now()
        await self._erasures.ask_again(now, every=self._every)
        self._counts.set(await self._erasures.open_counts(now))


def new_erasure_token() -> str:
    """Opens one erasure for whoever has it."""
    return secrets.token_urlsafe(_TOKEN_BYTES)
