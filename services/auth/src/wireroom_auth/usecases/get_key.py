"""One of the caller's API keys."""

from __future__ import annotations

from wireroom_auth.domain.api_keys import ApiKey
from wireroom_auth.ports.api_keys import ApiKeys
from wireroom_auth.usecases.key_terms import MANAGE_OWN
from wireroom_common.errors import not_found
from wireroom_common.ids import parse_id
from wireroom_common.principal import Principal


class GetKey:
    """Only own keys: others' look as if they were not there."""

    def __init__(self, keys: ApiKeys) -> None:
        self._keys = keys

    async def run(self, caller: Principal, key_id: str) -> ApiKey:
        """NOT_FOUND unless the caller owns a key with this id that is not revoked."""
        caller.require(MANAGE_OWN)
        key = await self._keys.get(caller.tenant(), caller.user_id(), parse_id(key_id, "API key"))
        if key is None:
            raise not_found("API key")
        return key
