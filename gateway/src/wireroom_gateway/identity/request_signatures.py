"""Signed requests: HTTP Message Signatures (RFC 9421) with hmac-sha256 and the signing secret of an API key.

A signature covers method, path, query and the body's digest, holds for a minute around `created`, and once.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from redis.asyncio import Redis
from redis.exceptions import RedisError
from starlette.types import Message, Receive, Scope

from wireroom_common.clock import Clock
from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_common.logging import get_logger
from wireroom_gateway.identity.api_keys import ApiKeyVerifier, KnownKey
from wireroom_gateway.identity.signature_fields import (
    SignatureInput,
    UnreadableSignatureError,
    parse_content_digest,
    parse_signature,
    parse_signature_input,
)
from wireroom_gateway.identity.tokens import credential_refused
from wireroom_gateway.problems import HttpProblemError, http_problem

ALGORITHM = "hmac-sha256"
WINDOW_SECONDS = 60
_NONCE_LENGTH = range(16, 129)
_PARAMETERS = frozenset({"created", "expires", "nonce", "alg", "keyid", "tag"})
_HASHES = {"sha-256": hashlib.sha256, "sha-512": hashlib.sha512}
_DEFAULT_PORTS = {"http": ":80", "https": ":443"}
_log = get_logger(__name__)


@dataclass(frozen=True)
class SignedRequest:
    """A request whose signature is good; `digests` are what its body must have (none: it must have no body)."""

    key: KnownKey
    cached: bool
    digests: Mapping[str, bytes] = field(default_factory=dict)


class RequestSignatures:
    """Checks signatures. Used nonces are kept in the store that all replicas share; without it nothing is accepted."""

    def __init__(self, keys: ApiKeyVerifier, redis: Redis, clock: Clock, *, timeout: float) -> None:
        self._keys = keys
        self._redis = redis
        self._clock = clock
        self._timeout = timeout

    async def verify(self, scope: Scope) -> SignedRequest:
        """UNAUTHENTICATED for a signature that is not good or was used; UNAVAILABLE when `auth` or the store cannot say."""
        try:
            described = parse_signature_input(_only(scope, "signature-input"))
            signature = parse_signature(_only(scope, "signature"), described.label)
            key_id, nonce = self._checked(described)
            base = signature_base(scope, described)
            digests = _digests(scope, described)
        except UnreadableSignatureError as error:
            raise credential_refused(f"The request's signature cannot be used: {error}") from None
        key, cached = await self._keys.named(key_id)
        now = self._clock.now().timestamp()
        secrets = [entry.secret for entry in key.signing_secrets if entry.until is None or now < entry.until]
        good = [hmac.compare_digest(hmac.new(secret, base, hashlib.sha256).digest(), signature) for secret in secrets]
        if not any(good):
            raise credential_refused("The request's signature is wrong.")
        if not await self._is_new(key_id, nonce):
            raise credential_refused("The request's signature was used before: sign each request anew, with a nonce of its own.")
        return SignedRequest(key, cached, digests)

    def _checked(self, described: SignatureInput) -> tuple[UUID, str]:
        parameters = described.parameters
        if unknown := sorted(parameters.keys() - _PARAMETERS):
            raise UnreadableSignatureError(f"the parameter '{unknown[0]}' is not known.")
        if parameters.get("alg", ALGORITHM) != ALGORITHM:
            raise UnreadableSignatureError(f"alg must be {ALGORITHM}.")
        created, expires, nonce, key_id = (parameters.get(name) for name in ("created", "expires", "nonce", "keyid"))
        now = self._clock.now().timestamp()
        if not isinstance(created, int) or abs(now - created) > WINDOW_SECONDS:
            raise UnreadableSignatureError(f"created must be a Unix time within {WINDOW_SECONDS} s of now.")
        if expires is not None and (not isinstance(expires, int) or now >= expires):
            raise UnreadableSignatureError("it has expired.")
        if not isinstance(nonce, str) or len(nonce) not in _NONCE_LENGTH:
            raise UnreadableSignatureError("nonce must have 16 to 128 characters.")
        try:
            return UUID(str(key_id)), nonce
        except ValueError:
            raise UnreadableSignatureError("keyid must be the id of an API key.") from None

    async def _is_new(self, key_id: UUID, nonce: str) -> bool:
        name = f"sig:{key_id}:{hashlib.sha256(nonce.encode()).hexdigest()}"
        try:
            async with asyncio.timeout(self._timeout):
                stored = await self._redis.set(name, b"", nx=True, ex=2 * WINDOW_SECONDS + 1)
        except (RedisError, OSError, TimeoutError) as error:
            _log.warning("nonce_store_unavailable", error=type(error).__name__)
            raise WireroomError(
                ErrorKind.UNAVAILABLE,
                "nonce_store_unavailable",
                "Whether the signature is new cannot be checked at the moment. Sign the request anew and try again.",
                retry_after=2.0,
            ) from error
        return bool(stored)


def signature_base(scope: Scope, described: SignatureInput) -> bytes:
    """What the signature is made over (RFC 9421, section 2.5)."""
    lines = [f'"{name}": {_value(scope, name)}' for name in described.components]
    return "\n".join([*lines, f'"@signature-params": {described.serialized()}']).encode("latin-1")


def _value(scope: Scope, name: str) -> str:
    if not name.startswith("@"):
        values = [value.decode("latin-1").strip(" \t") for header, value in scope["headers"] if header == name.encode()]
        if not values:
            raise UnreadableSignatureError(f"the header '{name}' is signed but was not sent.")
        return ", ".join(values)
    match name:
        case "@method":
            return str(scope["method"])
        case "@path":
            return _path(scope)
        case "@query":
            return "?" + bytes(scope["query_string"]).decode("latin-1")
        case "@authority":
            authority = _only(scope, "host").lower()
            return authority.removesuffix(_DEFAULT_PORTS.get(str(scope["scheme"]), "\x00"))
        case _:
            raise UnreadableSignatureError(f"'{name}' is not taken here; sign @method, @path, @query and headers.")


def _path(scope: Scope) -> str:
    raw: Any = scope.get("raw_path")
    if raw is None:
        raise UnreadableSignatureError("the path is not known as it was sent.")
    return bytes(raw).decode("latin-1") or "/"


def _digests(scope: Scope, described: SignatureInput) -> dict[str, bytes]:
    for name in ("@method", "@path"):
        if name not in described.components:
            raise UnreadableSignatureError(f"it must cover {name}.")
    if scope["query_string"] and "@query" not in described.components:
        raise UnreadableSignatureError("it must cover @query.")
    if "content-digest" in described.components:
        return parse_content_digest(_only(scope, "content-digest"))
    return {}


def _only(scope: Scope, name: str) -> str:
    """The value of a header that must be there once."""
    values = [value for header, value in scope["headers"] if header == name.encode()]
    if len(values) != 1:
        raise UnreadableSignatureError(f"send the header {name} once.")
    return bytes(values[0]).decode("latin-1")


def checked_body(receive: Receive, digests: Mapping[str, bytes]) -> Receive:
    """`receive` that lets the last part of the body through only when the whole has the signed digests."""
    hashes = {name: _HASHES[name]() for name in digests}

    async def receive_checked() -> Message:
        message = await receive()
        if message["type"] != "http.request":
            return message
        body = message.get("body", b"")
        if body and not hashes:
            raise _body_refused("The signature must cover content-digest, because the request has a body.")
        for each in hashes.values():
            each.update(body)
        if not message.get("more_body", False) and any(
            not hmac.compare_digest(each.digest(), digests[name]) for name, each in hashes.items()
        ):
            raise _body_refused("The body is not the one that was signed: its digest differs from Content-Digest.")
        return message

    return receive_checked


def _body_refused(detail: str) -> HttpProblemError:
    return http_problem(
        401, detail, code="credential_invalid", headers={"www-authenticate": 'Bearer realm="wireroom", error="invalid_token"'}
    )
