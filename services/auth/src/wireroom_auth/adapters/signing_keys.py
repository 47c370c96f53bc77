"""The Ed25519 keys that sign access tokens: kept in the database, private parts encrypted under the master secret."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from cryptography.exceptions import InvalidTag
from joserfc import jwt
from joserfc.jwk import OKPKey
from joserfc.jws import JWSRegistry
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from wireroom_auth.adapters.encryption import derive_key, seal, unseal
from wireroom_common.clock import Clock
from wireroom_common.db import Database

ALGORITHM = "EdDSA"
TOKEN_TYPE = "at+jwt"  # noqa: S105  a header value of RFC 9068
_LOCK = "wireroom_auth.signing_keys"
_PURPOSE = "wireroom/auth/signing-keys/v1"


class _Registry(JWSRegistry):
    """Allows EdDSA alone. RFC 9864 renames it to Ed25519, which too few verifiers know yet; the library warns at each use."""

    def get_alg(self, name: str) -> Any:
        return self.algorithms[ALGORITHM] if name == ALGORITHM else super().get_alg(name)


class SigningKeys:
    """Signs with the newest key that is not retired; publishes all that are not."""

    def __init__(self, database: Database, clock: Clock, master_secret: Callable[[], bytes]) -> None:
        self._database = database
        self._clock = clock
        self._master_secret = master_secret
        self._registry = _Registry(algorithms=[ALGORITHM])
        self._key: OKPKey | None = None

    async def load(self) -> None:
        """Read the key, or make the installation's first one: the lock leaves all replicas with the same.

        Raises RuntimeError when the master secret is not the one that the key was stored under.
        """
        secret = derive_key(self._master_secret(), _PURPOSE)
        async with self._database.system() as connection:
            await connection.execute(text("SELECT pg_advisory_xact_lock(hashtextextended(:lock, 0))"), {"lock": _LOCK})
            row = (
                await connection.execute(
                    text(
                        "SELECT kid, private_key_sealed FROM signing_keys WHERE retired_at IS NULL"
                        " ORDER BY created_at DESC, kid LIMIT 1"
                    )
                )
            ).first()
            if row is None:
                self._key = await self._create(connection, secret)
                return
        try:
            private = unseal(secret, row.private_key_sealed, bound_to=row.kid.encode())
        except InvalidTag:
            msg = (
                "The stored signing key cannot be decrypted with this master secret; "
                "set WIREROOM_MASTER_SECRET to the one the installation was made with."
            )
            raise RuntimeError(msg) from None
        self._key = OKPKey.import_key(json.loads(private))

    def sign(self, claims: Mapping[str, Any]) -> str:
        if self._key is None:
            msg = "The signing key is not loaded: the service has not started."
            raise RuntimeError(msg)
        header = {"alg": ALGORITHM, "typ": TOKEN_TYPE, "kid": self._key.kid}
        return jwt.encode(header, dict(claims), self._key, registry=self._registry)

    async def jwks(self) -> bytes:
        async with self._database.system() as connection:
            rows = await connection.execute(
                text("SELECT public_jwk FROM signing_keys WHERE retired_at IS NULL ORDER BY created_at")
            )
            return json.dumps({"keys": [json.loads(row.public_jwk) for row in rows]}).encode()

    async def _create(self, connection: AsyncConnection, secret: bytes) -> OKPKey:
        bare = OKPKey.generate_key("Ed25519")
        kid = bare.thumbprint()
        private = {**bare.as_dict(private=True), "kid": kid, "use": "sig", "alg": ALGORITHM}
        key = OKPKey.import_key(private)
        await connection.execute(
            text(
                "INSERT INTO signing_keys (kid, public_jwk, private_key_sealed, created_at) VALUES (:kid, :public, :sealed, :now)"
            ),
            {
                "kid": kid,
                "public": json.dumps(key.as_dict(private=False)),
                "sealed": seal(secret, json.dumps(private).encode(), bound_to=kid.encode()),
                "now": self._clock.now(),
            },
        )
        return key
