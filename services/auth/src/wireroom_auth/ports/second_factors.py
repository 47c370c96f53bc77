"""Second factors, as far as a login needs to know of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from wireroom_auth.domain.identity import User


@dataclass(frozen=True)
class Challenge:
    """A login that waits for its second factor; `expires_in` in seconds."""

    mfa_token: str = field(repr=False)
    expires_in: int


class SecondFactors(Protocol):
    """Who must prove more than the password."""

    async def challenge(self, user: User, methods: tuple[str, ...] = ("password",)) -> Challenge | None:
        """A new challenge; None for a user without a second factor. `methods`: what was proven so far.

        The first step was right. Failures are forgotten only when a session opens, so guessing codes counts as guessing does.
        """
