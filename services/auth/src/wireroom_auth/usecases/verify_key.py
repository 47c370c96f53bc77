"""Tell the gateway whom an API key stands for."""

from __future__ import annotations

from datetime import timedelta

from wireroom_auth.domain.api_keys import OwnedKey
from wireroom_auth.domain.credentials import looks_like_api_key
from wireroom_auth.ports.api_keys import ApiKeys
from wireroom_common.clock import Clock
from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_common.ids import parse_id
from wireroom_common.principal import Principal, PrincipalKind

_REMEMBER_USE_EVERY = timedelta(minutes=1)
_GATEWAY = "gateway"


class VerifyKey:
    """Unknown, revoked, expired and orphaned keys are refused alike."""

    def __init__(self, keys: ApiKeys, clock: Clock) -> None:
        self._keys = keys
        self._clock = clock

    async def by_secret(self, secret: str) -> tuple[OwnedKey, frozenset[str]]:
        """The key with its owner, and what it may do now; UNAUTHENTICATED `api_key_invalid`."""
        now = self._clock.now()
        return await self._use(await self._keys.find(secret, now=now) if looks_like_api_key(secret) else None)

    async def by_id(self, caller: Principal, key_id: str) -> tuple[OwnedKey, frozenset[str]]:
        """The same for a key that is named, not presented: FORBIDDEN for all but the gateway, which checks the signature itself."""
        if caller.kind is not PrincipalKind.SERVICE or caller.subject != _GATEWAY:
            raise WireroomError(ErrorKind.FORBIDDEN, "service_required", "Only the gateway may look up a key by its id.")
        try:
            wanted = parse_id(key_id, "API key")
        except WireroomError:
            return await self._use(None)
        return await self._use(await self._keys.find_by_id(wanted, now=self._clock.now()))

    async def _use(self, owned: OwnedKey | None) -> tuple[OwnedKey, frozenset[str]]:
        now = self._clock.now()
        if owned is None or not owned.is_usable(now):
            raise WireroomError(
                ErrorKind.UNAUTHENTICATED, "api_key_invalid", "The API key is not valid: mistyped, revoked or expired."
            )
        await self._keys.touch(owned.key, now=now, at_most_every=_REMEMBER_USE_EVERY)
        return owned, owned.owner.permissions_of_key(owned.key.permissions)
