"""Delays after failed logins."""

from __future__ import annotations

from typing import Protocol


class Backoff(Protocol):
    """Counts failures by address and by network, whether or not the address has an account.

    A caller asks `check` before the costly work, and tells the outcome with `settle` after it. All decisions go by the database's clock.
    """

    async def check(self, email: str, client_ip: str) -> None:
        """RATE_LIMITED `login_backoff` while a delay is running."""

    async def settle(self, email: str, client_ip: str, *, failed: bool) -> None:
        """Count a failure. RATE_LIMITED, whatever the outcome, if others have failed meanwhile so often that a delay is running."""

    async def forget(self, email: str, client_ip: str) -> None:
        """A session was opened: the address starts afresh, and this network is known for it from now on."""
