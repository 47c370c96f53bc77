"""Signed principals: who may speak for whom between processes.

The issuer "gateway" may sign any principal. Any other issuer may sign only an anonymous principal and the service that bears its
own name. A service that works for a user forwards the principal byte for byte as it came.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil
from uuid import UUID

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from google.protobuf.message import DecodeError

from wireroom_common.clock import Clock
from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_common.principal import Principal, PrincipalKind
from wireroom_protos.common.v1 import principal_pb2

PRINCIPAL_KEY = "x-principal-bin"
GATEWAY = "gateway"
_MAX_SIGNED_BYTES = 8 * 1024
_MAX_LIFETIME = 3600.0
# The signature covers this prefix too, so that it can never pass for one over another kind of message.
_CONTEXT = b"wireroom.principal.v1\0"

_KINDS = {
    PrincipalKind.USER: principal_pb2.Principal.KIND_USER,
    PrincipalKind.API_KEY: principal_pb2.Principal.KIND_API_KEY,
    PrincipalKind.SERVICE: principal_pb2.Principal.KIND_SERVICE,
    PrincipalKind.ANONYMOUS: principal_pb2.Principal.KIND_ANONYMOUS,
}
_FROM_KINDS = {value: kind for kind, value in _KINDS.items()}

TrustedKeys = Mapping[str, Sequence[Ed25519PublicKey]]


def _may_sign(issuer: str, principal: Principal) -> bool:
    if issuer == GATEWAY or principal.kind is PrincipalKind.ANONYMOUS:
        return True
    return principal.kind is PrincipalKind.SERVICE and principal.subject == issuer


@dataclass(frozen=True)
class _Entry:
    value: bytes
    expires_at: float


class PrincipalSigner:
    """Signs principals with the key of one process role.

    Signatures are kept for at most `capacity` principals and made anew at half their life.
    """

    def __init__(
        self, issuer: str, private_key: Ed25519PrivateKey, clock: Clock, *, lifetime: float = 60.0, capacity: int = 4096
    ) -> None:
        self.issuer = issuer
        self._key = private_key
        self._clock = clock
        self._lifetime = lifetime
        self._capacity = capacity
        self._cache: OrderedDict[tuple[Principal, int], _Entry] = OrderedDict()

    def sign(self, principal: Principal, *, outlives: float = 0.0) -> bytes:
        """The value of `x-principal-bin`, valid for `outlives` seconds at least and one half of the lifetime.

        A call that runs long passes its own time limit, so that the services it calls late can still forward the principal.
        INTERNAL if this issuer may not sign for `principal`.
        """
        if principal.kind is PrincipalKind.SERVICE and not principal.subject:
            principal = replace(principal, subject=self.issuer)
        if not _may_sign(self.issuer, principal):
            raise WireroomError(
                ErrorKind.INTERNAL, "principal_not_signable", "The service may not make this call in the name of another caller."
            )
        half_life = self._lifetime / 2
        needed = min(max(outlives, half_life), _MAX_LIFETIME)
        # Steps of one half-life: calls with slightly different time limits share a signature.
        step = ceil(needed / half_life)
        now = self._clock.now().timestamp()
        key = (principal, step)
        entry = self._cache.get(key)
        if entry is None or entry.expires_at - now < needed:
            entry = self._make(principal, int(now + (step + 1) * half_life))
            self._cache[key] = entry
            # The order is that of making, which is nearly that of use: each is made anew after half a life.
            self._cache.move_to_end(key)
            while len(self._cache) > self._capacity:
                self._cache.popitem(last=False)
        return entry.value

    def _make(self, principal: Principal, expires_at: int) -> _Entry:
        message = principal_pb2.Principal(
            kind=_KINDS[principal.kind],
            tenant_id=str(principal.tenant_id) if principal.tenant_id else "",
            subject=principal.subject,
            roles=sorted(principal.roles),
            permissions=sorted(principal.permissions),
            credential_id=principal.credential_id,
            epoch=principal.epoch,
            expires_at=expires_at,
        ).SerializeToString()
        signed = principal_pb2.SignedPrincipal(
            principal=message, issuer=self.issuer, signature=self._key.sign(_signed_bytes(self.issuer, message))
        )
        return _Entry(signed.SerializeToString(), expires_at)


class PrincipalVerifier:
    """Checks signed principals against the trusted keys of their issuers.

    Verified bytes are remembered (at most `capacity`); their expiry is checked every time. `reload` is asked for the current keys,
    at most once in `reload_interval` seconds, when an issuer is unknown or a signature does not fit: processes start in any order.
    """

    def __init__(
        self,
        trusted: TrustedKeys,
        clock: Clock,
        *,
        reload: Callable[[], TrustedKeys] | None = None,
        reload_interval: float = 1.0,
        capacity: int = 4096,
    ) -> None:
        self._trusted = trusted
        self._clock = clock
        self._reload = reload
        self._reload_interval = reload_interval
        self._reloaded_at: float | None = None
        self._capacity = capacity
        self._cache: OrderedDict[bytes, tuple[Principal, float]] = OrderedDict()

    def verify(self, signed: bytes) -> Principal:
        """The principal in `signed`; UNAUTHENTICATED if it is malformed, expired, or not signed by one who may."""
        known = self._cache.get(signed)
        if known is None:
            known = self._check(signed)
            self._cache[signed] = known
            while len(self._cache) > self._capacity:
                self._cache.popitem(last=False)
        else:
            self._cache.move_to_end(signed)
        principal, expires_at = known
        if self._clock.now().timestamp() >= expires_at:
            self._cache.pop(signed, None)
            raise _refused("principal_expired", "The call's principal has expired.")
        return principal

    def _check(self, signed: bytes) -> tuple[Principal, float]:
        if len(signed) > _MAX_SIGNED_BYTES:
            raise _refused("principal_malformed", "The call's principal cannot be read.")
        try:
            envelope = principal_pb2.SignedPrincipal.FromString(signed)
            message = principal_pb2.Principal.FromString(envelope.principal)
        except DecodeError:
            raise _refused("principal_malformed", "The call's principal cannot be read.") from None
        if not self._signature_fits(envelope):
            raise _refused("principal_signature_invalid", "The call's principal is not signed by a trusted issuer.")
        principal = _principal(message)
        if not _may_sign(envelope.issuer, principal):
            raise _refused(
                "principal_issuer_not_allowed", "The call's principal is signed by an issuer that may not speak for it."
            )
        return principal, message.expires_at

    def _signature_fits(self, envelope: principal_pb2.SignedPrincipal) -> bool:
        if _fits(envelope, self._trusted):
            return True
        now = self._clock.monotonic()
        if self._reload is None or (self._reloaded_at is not None and now - self._reloaded_at < self._reload_interval):
            return False
        self._reloaded_at = now
        self._trusted = self._reload()
        return _fits(envelope, self._trusted)


def _signed_bytes(issuer: str, message: bytes) -> bytes:
    return _CONTEXT + issuer.encode() + b"\0" + message


def _fits(envelope: principal_pb2.SignedPrincipal, trusted: TrustedKeys) -> bool:
    content = _signed_bytes(envelope.issuer, envelope.principal)
    for key in trusted.get(envelope.issuer, ()):
        try:
            key.verify(envelope.signature, content)
        except InvalidSignature:
            continue
        return True
    return False


def _principal(message: principal_pb2.Principal) -> Principal:
    kind = _FROM_KINDS.get(message.kind)
    try:
        tenant_id = UUID(message.tenant_id) if message.tenant_id else None
    except ValueError:
        kind = None
    if kind is None:
        raise _refused("principal_malformed", "The call's principal cannot be read.")
    return Principal(
        kind=kind,
        subject=message.subject,
        tenant_id=tenant_id,
        roles=frozenset(message.roles),
        permissions=frozenset(message.permissions),
        credential_id=message.credential_id,
        epoch=message.epoch,
    )


def _refused(code: str, detail: str) -> WireroomError:
    return WireroomError(ErrorKind.UNAUTHENTICATED, code, detail)
