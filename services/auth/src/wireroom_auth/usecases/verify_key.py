"""Tell the gateway whom an API key stands for."""

from __future__ import annotations

from datetime import timedelta

from wireroom_auth.domain.api_keys import OwnedKey
from wireroom_auth.domain.credentials import looks_like_api_key
from wireroom_auth.domain.permissions import permissions_of_key
from wireroom_auth.ports.api_keys import ApiKeys
from wireroom_common.clock import Clock
from wireroom_common.errors import ErrorKind, WireroomError

_REMEMBER_USE_EVERY = timedelta(minutes=1)


class VerifyKey:
    """Unknown, revoked, expired and orphaned keys are refused alike."""

    def __init__(self, keys: ApiKeys, clock: Clock) -> None:
        self._keys = keys
        self._clock = clock

    async def run(self, secret: str) -> tuple[OwnedKey, frozenset[str]]:
        """The key with its owner, and what it may do now; UNAUTHENTICATED `api_key_invalid`."""
        owned = await self._keys.find(secret) if looks_like_api_key(secret) else None
        now = self._clock.now()
        if owned is None or not owned.key.is_live(now) or owned.owner.disabled_at is not None:
            raise WireroomError(
                ErrorKind.UNAUTHENTICATED, "api_key_invalid", "The API key is not valid: mistyped, revoked or expired."
            )
        await self._keys.touch(owned.key, now=now, at_most_every=_REMEMBER_USE_EVERY)
        return owned, permissions_of_key(owned.key.permissions, owned.owner.roles)
