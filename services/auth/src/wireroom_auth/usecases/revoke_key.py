"""End an API key."""

from __future__ import annotations

from wireroom_auth.ports.api_keys import ApiKeys
from wireroom_auth.usecases.key_terms import MANAGE_OWN
from wireroom_common.clock import Clock
from wireroom_common.errors import not_found
from wireroom_common.ids import parse_id
from wireroom_common.principal import Principal


class RevokeKey:
    """Only own keys: others' look as if they were not there."""

    def __init__(self, keys: ApiKeys, clock: Clock) -> None:
        self._keys = keys
        self._clock = clock

    async def run(self, caller: Principal, key_id: str) -> None:
        """NOT_FOUND unless the caller owns a key with this id that is not revoked."""
        caller.require(MANAGE_OWN)
        wanted = parse_id(key_id, "API key")
        if not await self._keys.revoke(caller.tenant(), caller.user_id(), wanted, now=self._clock.now()):
            raise not_found("API key")
