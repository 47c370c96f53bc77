"""The Ed25519 key that signs receipts of erasures: made once, kept in the database under the master secret, the same for all replicas."""

from __future__ import annotations

from collections.abc import Callable

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import text

from wireroom_auth.adapters.encryption import RECEIPT_KEY, Sealing
from wireroom_common.clock import Clock
from wireroom_common.db import Database
from wireroom_common.errors import OperatorError

_BOUND_TO = b"receipt_key"


class ReceiptKey:
    """Implements `Signer`."""

    def __init__(self, database: Database, clock: Clock, master_secret: Callable[[], bytes]) -> None:
        self._database = database
        self._clock = clock
        self._sealing = Sealing(master_secret)
        self._key: Ed25519PrivateKey | None = None

    async def load(self) -> None:
        """Read the key, or make the installation's. OperatorError for another master secret."""
        fresh = self._sealing.seal(RECEIPT_KEY, Ed25519PrivateKey.generate().private_bytes_raw(), bound_to=_BOUND_TO)
        async with self._database.system() as connection:
            await connection.execute(
                text("INSERT INTO receipt_keys (sealed, created_at) VALUES (:sealed, :now) ON CONFLICT (singleton) DO NOTHING"),
                {"sealed": fresh, "now": self._clock.now()},
            )
            sealed = await connection.scalar(text("SELECT sealed FROM receipt_keys"))
        try:
            raw = self._sealing.unseal(RECEIPT_KEY, bytes(sealed), bound_to=_BOUND_TO)
        except InvalidTag:
            msg = (
                "The key that signs receipts of erasures cannot be decrypted with this master secret; "
                "set WIREROOM_MASTER_SECRET to the one the installation was made with."
            )
            raise OperatorError(msg) from None
        self._key = Ed25519PrivateKey.from_private_bytes(raw)

    def sign(self, data: bytes) -> bytes:
        """An Ed25519 signature."""
        return self._loaded().sign(data)

    def public_key(self) -> bytes:
        """The raw public key that verifies it."""
        return self._loaded().public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)

    def _loaded(self) -> Ed25519PrivateKey:
        if self._key is None:
            msg = "The key of receipts is not loaded: the service has not started."
            raise RuntimeError(msg)
        return self._key
