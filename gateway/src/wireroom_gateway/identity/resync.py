"""Keeps what the gateway knows of `auth` fresh: keys and revocations. `auth` may start later, or go away for a while."""

from __future__ import annotations

from wireroom_common.clock import Clock
from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_common.logging import get_logger
from wireroom_gateway.identity.jwks import JwksCache
from wireroom_gateway.identity.revocations import Revocations

TICK_SECONDS = 1.0
_KEYS_EVERY = 300.0
# With the bus down this is how revocations arrive: together with a call that times out once, within 30 seconds.
_REVOCATIONS_EVERY = 20.0
_log = get_logger(__name__)


class Resynchroniser:
    """`run` is called every `TICK_SECONDS` and does what is due; what failed is due again at once."""

    def __init__(self, keys: JwksCache, revocations: Revocations, clock: Clock) -> None:
        self._keys = keys
        self._revocations = revocations
        self._clock = clock
        self._keys_due = float("-inf")
        self._revocations_due = float("-inf")
        self._synchronised = False

    async def run(self) -> None:
        """Do what is due."""
        now = self._clock.monotonic()
        if now >= self._keys_due and await self._keys.refresh():
            self._keys_due = now + _KEYS_EVERY
        if now >= self._revocations_due:
            try:
                await self._revocations.resynchronise()
            except WireroomError as error:
                _log.warning("revocations_not_synchronised", code=error.code)
            else:
                self._revocations_due = now + _REVOCATIONS_EVERY
                self._synchronised = True

    async def check(self) -> None:
        """UNAVAILABLE until keys and revocations were read once."""
        if not self._keys.loaded:
            raise WireroomError(ErrorKind.UNAVAILABLE, "keys_unavailable", "The keys of access tokens were not read yet.")
        if not self._synchronised:
            raise WireroomError(ErrorKind.UNAVAILABLE, "revocations_unavailable", "The list of revocations was not read yet.")
