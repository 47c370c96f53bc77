"""Encryption of what is kept outside of the process: AES-256-GCM under keys derived for one purpose each."""

from __future__ import annotations

import secrets

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

_NONCE_BYTES = 12
_KEY_BYTES = 32


class Seal:
    """Seals and opens values of one purpose. `bound_to` must be the same at opening: a value cannot stand in another's place."""

    def __init__(self, secret: bytes, purpose: str) -> None:
        key = HKDF(algorithm=SHA256(), length=_KEY_BYTES, salt=None, info=purpose.encode()).derive(secret)
        self._cipher = AESGCM(key)

    def close(self, plaintext: bytes, bound_to: bytes) -> bytes:
        """Nonce and ciphertext."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, plaintext, bound_to)

    def open(self, sealed: bytes, bound_to: bytes) -> bytes:
        """The plaintext; raises `cryptography.exceptions.InvalidTag` for another key, place or a changed value."""
        return self._cipher.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], bound_to)
