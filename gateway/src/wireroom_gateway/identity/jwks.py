"""The public keys of access tokens, kept in memory."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import orjson
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from joserfc.errors import JoseError
from joserfc.jwk import OKPKey

from wireroom_common.bus.envelope import Envelope
from wireroom_common.clock import Clock
from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_common.logging import get_logger
from wireroom_common.principal import ANONYMOUS, Principal, current_principal, set_current_principal
from wireroom_gateway.services import Services
from wireroom_protos.auth.v1 import auth_pb2

# An unknown key id may be a new key or rubbish: ask for either, but not for every piece of rubbish.
_MINIMUM_INTERVAL = 5.0
_TIMEOUT = 2.0
_log = get_logger(__name__)


class JwksCache:
    """Keys by `kid`. Keeps what it has while `auth` does not answer."""

    def __init__(self, services: Services, clock: Clock) -> None:
        self._services = services
        self._clock = clock
        self._keys: dict[str, Ed25519PublicKey] = {}
        self._document = b'{"keys":[]}'
        self._loaded = False
        self._tried_at = float("-inf")
        self._lock = asyncio.Lock()

    @property
    def loaded(self) -> bool:
        """Whether keys were ever read."""
        return self._loaded

    @property
    def document(self) -> bytes:
        """The key set as `auth` wrote it."""
        return self._document

    async def key(self, kid: str) -> Ed25519PublicKey | None:
        """The key, after one look at `auth` if it is not known. UNAVAILABLE while no keys were ever read."""
        found = self._keys.get(kid)
        if found is None:
            tried_at = self._tried_at
            async with self._lock:
                # Whoever waited here for another one's refresh need not make one.
                if tried_at == self._tried_at and self._clock.monotonic() - self._tried_at >= _MINIMUM_INTERVAL:
                    await self._try_refresh()
            found = self._keys.get(kid)
        if found is None and not self._loaded:
            raise WireroomError(
                ErrorKind.UNAVAILABLE,
                "keys_unavailable",
                "Access tokens cannot be checked at the moment. Try again.",
                retry_after=2.0,
            )
        return found

    async def refresh(self) -> bool:
        """Read the keys again; False if `auth` did not answer with any."""
        async with self._lock:
            return await self._try_refresh()

    async def on_event(self, _envelope: Envelope) -> None:
        """Handles `auth.signing_key.rotated`: the key that signs after the next rotation is known from now on."""
        await self.refresh()

    async def _try_refresh(self) -> bool:
        self._tried_at = self._clock.monotonic()
        previous = _current()
        set_current_principal(ANONYMOUS)
        try:
            answer = await self._services.auth.GetJwks(auth_pb2.GetJwksRequest(), timeout=_TIMEOUT)
        except WireroomError as error:
            _log.warning("jwks_refresh_failed", code=error.code)
            return False
        finally:
            set_current_principal(previous)
        keys = parse(answer.jwks_json)
        if not keys:
            _log.error("jwks_unusable")
            return False
        self._keys = keys
        self._document = answer.jwks_json
        self._loaded = True
        return True


def _current() -> Principal | None:
    try:
        return current_principal()
    except WireroomError:
        return None


def parse(document: bytes) -> dict[str, Ed25519PublicKey]:
    """The Ed25519 keys of the set by id. What is not one, is meant for something else, or shares its id with another is left out."""
    try:
        entries = orjson.loads(document)["keys"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return {}
    if not isinstance(entries, list):
        return {}
    named = [entry for entry in entries if isinstance(entry, dict) and isinstance(entry.get("kid"), str)]
    ids = Counter(entry["kid"] for entry in named)
    keys: dict[str, Ed25519PublicKey] = {}
    for entry in named:
        public = _public_key(entry) if ids[entry["kid"]] == 1 else None
        if public is not None:
            keys[entry["kid"]] = public
    return keys


def _public_key(entry: dict[str, Any]) -> Ed25519PublicKey | None:
    wanted = {"kty": "OKP", "crv": "Ed25519", "use": "sig", "alg": "EdDSA"}
    if any(entry.get(name, value) != value for name, value in wanted.items()):
        return None
    try:
        public = OKPKey.import_key({name: entry[name] for name in ("kty", "crv", "x")}).public_key
    except (JoseError, KeyError, TypeError, ValueError, AttributeError):
        return None
    return public if isinstance(public, Ed25519PublicKey) else None
