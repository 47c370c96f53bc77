"""The Ed25519 key that signs receipts: a file of the service's folder, made once."""

from __future__ import annotations

from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from wireroom_common.rpc import ensure_key

_ISSUER = "receipts"


class ReceiptKey:
    """Implements `Signer`. Touches the disk at its first use."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._key: Ed25519PrivateKey | None = None

    def sign(self, data: bytes) -> bytes:
        """An Ed25519 signature."""
        return self._loaded().sign(data)

    def public_key(self) -> bytes:
        """The raw public key that verifies it."""
        return self._loaded().public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)

    def _loaded(self) -> Ed25519PrivateKey:
        if self._key is None:
            self._key = ensure_key(self._folder, _ISSUER)
        return self._key
