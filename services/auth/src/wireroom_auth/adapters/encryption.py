"""Encryption of small secrets at rest: AES-256-GCM under keys derived for one purpose each."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

_NONCE_BYTES = 12
_KEY_BYTES = 32


def derive_key(secret: bytes, purpose: str) -> bytes:
    """A 256-bit key for one purpose (HKDF-SHA256, RFC 5869); the secret must have at least as much entropy."""
    return HKDF(algorithm=SHA256(), length=_KEY_BYTES, salt=None, info=purpose.encode()).derive(secret)


def seal(key: bytes, plaintext: bytes, *, bound_to: bytes) -> bytes:
    """Nonce and ciphertext; `bound_to` must be the same at opening, so that a sealed value cannot stand in another row."""
    nonce = secrets.token_bytes(_NONCE_BYTES)
    return nonce + AESGCM(key).encrypt(nonce, plaintext, bound_to)


def unseal(key: bytes, sealed: bytes, *, bound_to: bytes) -> bytes:
    """The plaintext; raises `cryptography.exceptions.InvalidTag` for another key, another `bound_to` or a changed value."""
    return AESGCM(key).decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], bound_to)


@dataclass(frozen=True)
class SealedColumn:
    """Where sealed values stand: changing the master secret seals all of them anew.

    `bound_to` is the SQL expression of the bytes that a row's value is bound to. Names of such columns are `sealed` or end in `_sealed`.
    """

    table: str
    column: str
    purpose: str
    bound_to: str


SIGNING_KEYS = SealedColumn("signing_keys", "private_key_sealed", "wireroom/auth/signing-keys/v1", "convert_to(kid, 'UTF8')")
REQUEST_SIGNING = SealedColumn("api_keys", "signing_secret_sealed", "wireroom/auth/request-signing/v1", "uuid_send(id)")
PREVIOUS_REQUEST_SIGNING = SealedColumn(
    "api_keys", "previous_signing_secret_sealed", REQUEST_SIGNING.purpose, REQUEST_SIGNING.bound_to
)

MAILS = SealedColumn("mails", "content_sealed", "wireroom/auth/mails/v1", "uuid_send(id)")
TOTP_SECRETS = SealedColumn("totp_factors", "secret_sealed", "wireroom/auth/totp/v1", "uuid_send(user_id)")
OIDC_LOGINS = SealedColumn("oidc_logins", "secrets_sealed", "wireroom/auth/oidc-logins/v1", "state_hash")
AUDIT_KEY = SealedColumn("audit_keys", "sealed", "wireroom/auth/audit-chain/v1", "convert_to('audit_key', 'UTF8')")
RECEIPT_KEY = SealedColumn("receipt_keys", "sealed", "wireroom/auth/receipts/v1", "convert_to('receipt_key', 'UTF8')")

# Every column of this service that holds sealed values; a test compares it with the schema.
SEALED_COLUMNS: tuple[SealedColumn, ...] = (
    SIGNING_KEYS,
    REQUEST_SIGNING,
    PREVIOUS_REQUEST_SIGNING,
    MAILS,
    TOTP_SECRETS,
    OIDC_LOGINS,
    AUDIT_KEY,
    RECEIPT_KEY,
)


class Sealing:
    """Seals and unseals under keys derived from the master secret, which is asked for at first use."""

    def __init__(self, master_secret: Callable[[], bytes]) -> None:
        self._master_secret = master_secret
        self._keys: dict[str, bytes] = {}

    def seal(self, column: SealedColumn, plaintext: bytes, *, bound_to: bytes) -> bytes:
        """The value for `column`."""
        return seal(self._key(column), plaintext, bound_to=bound_to)

    def unseal(self, column: SealedColumn, sealed: bytes, *, bound_to: bytes) -> bytes:
        """What was sealed; raises `cryptography.exceptions.InvalidTag` as `unseal` does."""
        return unseal(self._key(column), sealed, bound_to=bound_to)

    def _key(self, column: SealedColumn) -> bytes:
        if column.purpose not in self._keys:
            self._keys[column.purpose] = derive_key(self._master_secret(), column.purpose)
        return self._keys[column.purpose]
