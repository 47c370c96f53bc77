"""Exchange an API key for a short-lived access token: the client credentials grant of OAuth 2 (RFC 6749, section 4.4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta

from wireroom_auth.domain.access_tokens import client_claims
from wireroom_auth.domain.credentials import looks_like_api_key
from wireroom_auth.ports.api_keys import ApiKeys
from wireroom_auth.ports.cryptography import AccessTokenSigner
from wireroom_common.clock import Clock
from wireroom_common.errors import ErrorKind, WireroomError, invalid
from wireroom_common.ids import new_id

_REMEMBER_USE_EVERY = timedelta(minutes=1)


@dataclass(frozen=True)
class ClientToken:
    """The token, its life in seconds and the permissions in it."""

    access_token: str = field(repr=False)
    expires_in: int
    scope: tuple[str, ...]


class IssueToken:
    """The key's id is the client's id, its secret the client's secret. Revoking the key ends its tokens."""

    def __init__(self, keys: ApiKeys, signer: AccessTokenSigner, clock: Clock, *, lifetime: timedelta) -> None:
        self._keys = keys
        self._signer = signer
        self._clock = clock
        self._lifetime = lifetime

    async def run(self, client_id: str, client_secret: str, scope: Sequence[str]) -> ClientToken:
        """UNAUTHENTICATED `client_invalid`, INVALID `scope_invalid`, FORBIDDEN `client_unauthorized` for keys that sign requests."""
        now = self._clock.now()
        owned = await self._keys.find(client_secret, now=now) if looks_like_api_key(client_secret) else None
        if owned is None or not owned.is_usable(now):
            raise _invalid_client()
        key = owned.key
        if client_id.lower() != str(key.id):
            await self._keys.record_token(key, outcome="denied", reason="client_id")
            raise _invalid_client()
        if key.signature_required:
            await self._keys.record_token(key, outcome="denied", reason="signature_required")
            raise WireroomError(
                ErrorKind.FORBIDDEN,
                "client_unauthorized",
                "This key signs its requests; a bearer token would go round that.",
            )
        permitted = owned.owner.permissions_of_key(key.permissions)
        wanted = frozenset(scope)
        if exceeding := sorted(wanted - permitted):
            await self._keys.record_token(key, outcome="denied", reason="scope")
            raise invalid("scope_invalid", f"The key does not hold '{exceeding[0][:64]}'.", field="scope")
        granted = tuple(sorted(wanted or permitted))
        ends = [now + self._lifetime, *(end for end in (key.expires_at, owned.until) if end is not None)]
        expires_at = min(ends)
        claims = client_claims(owned, granted, token_id=new_id(), now=now, expires_at=expires_at)
        await self._keys.touch(key, now=now, at_most_every=_REMEMBER_USE_EVERY)
        await self._keys.record_token(key, outcome="success")
        return ClientToken(self._signer.sign(claims), max(0, int((expires_at - now).total_seconds())), granted)


def _invalid_client() -> WireroomError:
    return WireroomError(
        ErrorKind.UNAUTHENTICATED, "client_invalid", "The client id (an API key's id) or the client secret (the key) is wrong."
    )
