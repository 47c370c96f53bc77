"""Second factors as they are stored."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol
from uuid import UUID

from wireroom_auth.domain.identity import User
from wireroom_auth.domain.second_factor import SecondFactorState


@dataclass(frozen=True)
class PendingLogin:
    """A login that waits for a code: of whom, and what was proven so far."""

    user: User
    methods: tuple[str, ...]


class FactorStore(Protocol):
    """TOTP secrets and recovery codes. What changes is told: audit trail, event, mail."""

    async def state(self, tenant_id: UUID, user_id: UUID) -> SecondFactorState:
        """What the user has; `confirmed_at` None without a factor in force."""

    async def enroll(self, user: User, secret: bytes) -> None:
        """Keep a secret that is to be confirmed, instead of one that was not. CONFLICT `second_factor_exists` if one is in force."""

    async def confirm(self, user: User, code: str, recovery_codes: list[str]) -> bool:
        """Put the enrolled factor in force with these recovery codes; False for a wrong code.

        CONFLICT `second_factor_not_enrolled` or `second_factor_exists`.
        """

    async def disable(self, user: User, code: str) -> bool:
        """Remove the factor; False for a wrong code. CONFLICT `second_factor_not_enrolled` without one."""

    async def prove(self, user: User, code: str) -> bool:
        """Whether the code is right, of a user with a factor in force; it is spent. A wrong one is audited."""

    async def pending(self, mfa_token: str) -> PendingLogin | None:
        """The login that waits under this token; None if there is none (any more)."""

    async def finish(self, mfa_token: str, code: str) -> str | None:
        """Spend the token: "totp" or "recovery_code"; None for a wrong code, which is counted: the fifth ends the token.

        UNAUTHENTICATED `mfa_token_invalid` if nothing waits under the token.
        """
