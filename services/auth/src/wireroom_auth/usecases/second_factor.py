"""Enrol, confirm, remove and look at one's second factor."""

from __future__ import annotations

from collections.abc import Callable

from wireroom_auth.domain.second_factor import (
    SecondFactorState,
    base32,
    code_invalid,
    new_recovery_codes,
    new_secret,
    provisioning_uri,
)
from wireroom_auth.ports.factor_store import FactorStore
from wireroom_auth.usecases.password_proof import PasswordProof
from wireroom_common.principal import Principal


class EnrollTotp:
    """The factor is in force only when a code has shown that the authenticator has the secret."""

    def __init__(self, factors: FactorStore, proof: PasswordProof, public_url: Callable[[], str]) -> None:
        self._factors = factors
        self._proof = proof
        self._public_url = public_url

    async def run(self, caller: Principal, password: str) -> tuple[str, str]:
        """The `otpauth://` URI and the secret in base32. CONFLICT `second_factor_exists`; see `PasswordProof.proven`."""
        user = await self._proof.proven(caller, password)
        secret = new_secret()
        await self._factors.enroll(user, secret)
        host = self._public_url().split("://")[-1].split("/")[0]
        return provisioning_uri(secret, account=user.email, issuer=f"Wireroom {host}".replace(":", " ")), base32(secret)


class ConfirmTotp:
    """Switches the factor on."""

    def __init__(self, factors: FactorStore, proof: PasswordProof) -> None:
        self._factors = factors
        self._proof = proof

    async def run(self, caller: Principal, code: str) -> list[str]:
        """Ten recovery codes, shown this once; UNAUTHENTICATED `mfa_code_invalid`, CONFLICT without an enrolled factor."""
        user = await self._proof.user(caller)
        codes = new_recovery_codes()
        if not await self._factors.confirm(user, code, codes):
            raise code_invalid()
        return codes


class DisableTotp:
    """Needs both factors."""

    def __init__(self, factors: FactorStore, proof: PasswordProof) -> None:
        self._factors = factors
        self._proof = proof

    async def run(self, caller: Principal, password: str, code: str) -> None:
        """UNAUTHENTICATED `mfa_code_invalid`, CONFLICT `second_factor_not_enrolled`; see `PasswordProof.proven`."""
        user = await self._proof.proven(caller, password)
        if not await self._factors.disable(user, code):
            await self._proof.count_failure(user)
            raise code_invalid()


class GetSecondFactor:
    """What the caller has."""

    def __init__(self, factors: FactorStore, proof: PasswordProof) -> None:
        self._factors = factors
        self._proof = proof

    async def run(self, caller: Principal) -> SecondFactorState:
        """FORBIDDEN for API keys."""
        user = await self._proof.user(caller)
        return await self._factors.state(user.tenant_id, user.id)
