"""Access tokens: EdDSA (Ed25519) JWTs of type `at+jwt`, checked with the cached public keys.

The signature is checked with the primitive itself: the token's header chooses nothing but the key id, and what is checked besides
(canonical base64url, no repeated members, the exact type) is stricter than what JWT libraries do.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import json
import re
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from wireroom_common.clock import Clock
from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_common.principal import Principal, PrincipalKind
from wireroom_gateway.identity.jwks import JwksCache
from wireroom_gateway.identity.revocations import Revocations

MAX_TOKEN_BYTES = 8 * 1024
_COMPACT = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+", re.ASCII)
_TYPE = "at+jwt"
_ALGORITHM = "EdDSA"
# The members that `auth` writes. Others could change what is verified or with which key (jwk, jku, x5c, crit, b64, zip, …).
_HEADER = frozenset({"alg", "typ", "kid"})
# What `kind` says of the credential in `sid`: nothing for a session's id.
_KINDS: Mapping[str, PrincipalKind] = {"": PrincipalKind.USER, "api_key": PrincipalKind.API_KEY}
_REQUIRED_TEXT = ("sub", "tid", "sid", "jti")


class TokenRejectedError(Exception):
    """Why a token is not accepted; for the log, the caller only learns that it is not."""


def credential_refused(detail: str) -> WireroomError:
    """The one answer to a credential that is not or no longer accepted."""
    return WireroomError(ErrorKind.UNAUTHENTICATED, "credential_invalid", detail)


def expiry_of(verified_token: str) -> float:
    """When a token that was verified ends: seconds since 1970, without leeway."""
    return _time(_members(verified_token.split(".")[1]).get("exp"))


@dataclass(frozen=True)
class _Verified:
    principal: Principal
    not_before: float
    expires_at: float


class TokenVerifier:
    """Turns an access token into a principal. Verified ones are kept by hash; expiry, revocation and epochs are looked at on every use."""

    def __init__(
        self,
        keys: JwksCache,
        revocations: Revocations,
        clock: Clock,
        *,
        issuer: str,
        audience: str,
        leeway: float,
        cache_size: int,
    ) -> None:
        self._keys = keys
        self._revocations = revocations
        self._clock = clock
        self._issuer = issuer
        self._audience = audience
        self._leeway = leeway
        self._cache_size = cache_size
        self._cache: OrderedDict[bytes, _Verified] = OrderedDict()

    async def verify(self, token: str) -> tuple[Principal, bool]:
        """The principal, and whether it came from the cache. UNAUTHENTICATED if the token is not good."""
        if len(token) > MAX_TOKEN_BYTES:
            raise _not_a_token()
        digest = hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
        verified = self._cache.get(digest)
        cached = verified is not None
        if verified is None:
            if not _COMPACT.fullmatch(token):
                raise _not_a_token()
            try:
                verified = await self._check(token)
            except TokenRejectedError as error:
                raise credential_refused("The access token is not valid.") from error
        now = self._clock.now().timestamp()
        if now >= verified.expires_at + self._leeway:
            self._cache.pop(digest, None)
            raise credential_refused("The access token has expired. Refresh it or sign in again.")
        if now < verified.not_before - self._leeway:
            raise credential_refused("The access token is not valid yet.")
        if self._revocations.is_revoked(verified.principal.credential_id):
            raise credential_refused("The session has ended. Sign in again.")
        if self._revocations.is_outdated(verified.principal):
            raise credential_refused(
                "The rights of this account have changed since the token was issued. Refresh it or sign in again."
            )
        self._remember(digest, verified)
        return verified.principal, cached

    def _remember(self, digest: bytes, verified: _Verified) -> None:
        self._cache[digest] = verified
        self._cache.move_to_end(digest)
        while len(self._cache) > self._cache_size:
            self._cache.popitem(last=False)

    async def _check(self, token: str) -> _Verified:
        head, payload, signature = token.split(".")
        header = _members(head)
        if header.keys() != _HEADER or header["alg"] != _ALGORITHM or header["typ"] != _TYPE:
            raise TokenRejectedError("header")
        kid = header.get("kid")
        if not isinstance(kid, str):
            raise TokenRejectedError("kid")
        key = await self._keys.key(kid)
        if key is None:
            raise TokenRejectedError("unknown kid")
        # Elliptic-curve arithmetic is kept off the event loop.
        await asyncio.to_thread(_check_signature, key, _decode(signature), f"{head}.{payload}".encode("ascii"))
        return self._claims(_members(payload))

    def _claims(self, claims: Mapping[str, Any]) -> _Verified:
        audience = claims.get("aud")
        audiences = audience if isinstance(audience, list) else [audience]
        if claims.get("iss") != self._issuer or self._audience not in audiences:
            raise TokenRejectedError("iss or aud")
        if not all(isinstance(claims.get(name), str) and claims[name] for name in _REQUIRED_TEXT):
            raise TokenRejectedError("claims missing")
        try:
            tenant, subject, session = UUID(claims["tid"]), UUID(claims["sub"]), UUID(claims["sid"])
        except ValueError:
            raise TokenRejectedError("claims malformed") from None
        epoch, tenant_epoch = _count(claims.get("epoch", 0)), _count(claims.get("tepoch", 0))
        stated = claims.get("kind", "")
        kind = _KINDS.get(stated) if isinstance(stated, str) else None
        if kind is None or (kind is PrincipalKind.API_KEY and claims.get("client_id") != claims["sid"]):
            raise TokenRejectedError("kind")
        principal = Principal(
            kind,
            subject=str(subject),
            tenant_id=tenant,
            roles=_names(claims.get("roles", [])),
            permissions=_names(claims.get("perms", [])),
            credential_id=str(session),
            epoch=epoch,
            tenant_epoch=tenant_epoch,
        )
        return _Verified(principal, _time(claims.get("nbf")), _time(claims.get("exp")))


def _not_a_token() -> WireroomError:
    return credential_refused("The credential is neither an access token (a JWT) nor an API key (which begins with 'wr_').")


def _check_signature(key: Ed25519PublicKey, signature: bytes, signed: bytes) -> None:
    try:
        key.verify(signature, signed)
    except InvalidSignature:
        raise TokenRejectedError("signature") from None


def _decode(text: str) -> bytes:
    try:
        value = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except (binascii.Error, ValueError):
        raise TokenRejectedError("base64url") from None
    if base64.urlsafe_b64encode(value).rstrip(b"=").decode() != text:
        raise TokenRejectedError("base64url not canonical")
    return value


def _members(text: str) -> dict[str, Any]:
    try:
        value = json.loads(_decode(text).decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise TokenRejectedError("JSON") from None
    if not isinstance(value, dict):
        raise TokenRejectedError("no object")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise TokenRejectedError("repeated member")
    return members


def _no_constant(_name: str) -> None:
    raise TokenRejectedError("constant")


def _count(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**31:
        raise TokenRejectedError("epoch or tepoch")
    return value


def _time(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 2**40:
        raise TokenRejectedError("exp or nbf")
    return float(value)


def _names(value: object) -> frozenset[str]:
    if not isinstance(value, Sequence) or isinstance(value, str) or not all(isinstance(item, str) for item in value):
        raise TokenRejectedError("roles or perms")
    return frozenset(value)
