"""Validation of ID tokens (OpenID Connect Core 3.1.3.7, RFC 8725)."""

from __future__ import annotations

import hmac
import json
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from joserfc import jws
from joserfc.errors import JoseError, UnsupportedAlgorithmError
from joserfc.jwk import ECKey, KeySet, OctKey, OKPKey, RSAKey
from joserfc.jws import JWSRegistry

# Signatures with public keys only: with a symmetric one, whoever knows the client's secret could sign in as anybody.
ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "Ed25519", "EdDSA")
_TYPES = ("JWT", "jwt", None)
_KINDS: dict[str, type[RSAKey | ECKey | OKPKey]] = {"RSA": RSAKey, "EC": ECKey, "OKP": OKPKey}
_SKEW = 60
_MAX_TOKEN = 32_768
_MAX_SUBJECT = 255
_MAX_KEYS = 100
_MIN_RSA_BITS = 2048


class IdTokenError(Exception):
    """The token proves nothing. The text is for the log."""


class _Registry(JWSRegistry):
    """Knows the algorithms it is given, and no others; the library warns at each use of EdDSA, the name that providers still use."""

    def __init__(self, permitted: frozenset[str]) -> None:
        super().__init__(algorithms=sorted(permitted))
        self._permitted = permitted

    def get_alg(self, name: str) -> Any:
        if name not in self._permitted:
            raise UnsupportedAlgorithmError(f"not among those that are allowed: {name[:20]}")
        return self.algorithms[name]


def signing_keys(jwks: Mapping[str, Any]) -> KeySet:
    """The public signing keys of a JWK set; what is of no use for that is left out."""
    listed = jwks.get("keys")
    keys: list[OctKey | RSAKey | ECKey | OKPKey] = []
    for entry in listed[:_MAX_KEYS] if isinstance(listed, list) else []:
        if not isinstance(entry, dict) or entry.get("kty") not in _KINDS or entry.get("use", "sig") != "sig" or "d" in entry:
            continue
        try:
            key = _KINDS[entry["kty"]].import_key(entry)
        except (JoseError, ValueError, TypeError, KeyError):
            continue
        if not isinstance(key, RSAKey) or key.raw_value.key_size >= _MIN_RSA_BITS:
            keys.append(key)
    return KeySet(keys)


def key_id(token: str) -> str | None:
    """The key that a token names; IdTokenError if it is no token."""
    if len(token) > _MAX_TOKEN:
        raise IdTokenError("too long")
    try:
        header = jws.extract_compact(token.encode()).headers()
    except (JoseError, ValueError) as error:
        raise IdTokenError(f"no token: {type(error).__name__}") from None
    kid = header.get("kid")
    return kid if isinstance(kid, str) else None


def validated(  # noqa: C901 - one check after the other, as the standard lists them
    token: str, keys: KeySet, *, issuer: str, client_id: str, nonce: str, algorithms: Iterable[str], now: datetime
) -> dict[str, Any]:
    """The claims of a token that is signed by one of `keys` for this client and this login; IdTokenError otherwise."""
    permitted = frozenset(ALGORITHMS).intersection(algorithms)
    try:
        signed = jws.deserialize_compact(token.encode(), keys, registry=_Registry(permitted))
        claims = json.loads(signed.payload)
    except (JoseError, ValueError, RecursionError) as error:
        raise IdTokenError(f"signature: {type(error).__name__}") from None
    if signed.headers().get("typ") not in _TYPES:
        raise IdTokenError("typ")
    if not isinstance(claims, dict):
        raise IdTokenError("claims")
    if claims.get("iss") != issuer:
        raise IdTokenError("iss")
    audience = claims.get("aud")
    audiences = audience if isinstance(audience, list) else [audience]
    if client_id not in audiences:
        raise IdTokenError("aud")
    if claims.get("azp", client_id) != client_id or (len(audiences) > 1 and "azp" not in claims):
        raise IdTokenError("azp")
    moment = now.timestamp()
    if not _number(claims, "exp") > moment - _SKEW:
        raise IdTokenError("exp")
    if not _number(claims, "iat") < moment + _SKEW:
        raise IdTokenError("iat")
    if "nbf" in claims and not _number(claims, "nbf") < moment + _SKEW:
        raise IdTokenError("nbf")
    given = claims.get("nonce")
    if not isinstance(given, str) or not hmac.compare_digest(given.encode("utf-8", "replace"), nonce.encode()):
        raise IdTokenError("nonce")
    subject = claims.get("sub")
    if not isinstance(subject, str) or not 0 < len(subject) <= _MAX_SUBJECT or "\x00" in subject:
        raise IdTokenError("sub")
    return claims


def _number(claims: Mapping[str, Any], name: str) -> float:
    value = claims.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise IdTokenError(name)
    return float(value)
