"""Give an API key a new secret."""

from __future__ import annotations

from wireroom_auth.domain.api_keys import ApiKey, KeySecrets, check_overlap
from wireroom_auth.ports.api_keys import ApiKeys
from wireroom_auth.usecases.key_terms import KeyTerms, new_secrets
from wireroom_common.clock import Clock
from wireroom_common.errors import ErrorKind, WireroomError, not_found
from wireroom_common.ids import parse_id
from wireroom_common.principal import Principal


class RotateKey:
    """The old secret stays valid for the overlap; another rotation meanwhile ends it: there are never more than two."""

    def __init__(self, terms: KeyTerms, keys: ApiKeys, clock: Clock) -> None:
        self._terms = terms
        self._keys = keys
        self._clock = clock

    async def run(self, caller: Principal, key_id: str, overlap_seconds: int | None) -> tuple[ApiKey, KeySecrets]:
        """The key and its new secrets. NOT_FOUND unless it is the caller's; CONFLICT `api_key_expired`."""
        owner = await self._terms.owner(caller)
        overlap = check_overlap(overlap_seconds)
        wanted = parse_id(key_id, "API key")
        key = await self._keys.get(owner.tenant_id, owner.id, wanted)
        if key is None:
            raise not_found("API key")
        now = self._clock.now()
        prefix, secrets = new_secrets(signing=key.signature_required)
        rotated = await self._keys.rotate(
            owner.tenant_id, owner.id, wanted, secrets, prefix=prefix, until=now + overlap if overlap else None, now=now
        )
        if rotated is None:
            if key.is_live(now):
                raise not_found("API key")  # Revoked since it was looked at.
            raise WireroomError(ErrorKind.CONFLICT, "api_key_expired", "The API key has expired; make a new one.")
        return rotated, secrets
