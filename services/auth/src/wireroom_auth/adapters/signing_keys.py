"""The Ed25519 keys that sign access tokens: kept in the database, private parts encrypted under the master secret.

At any time there is one that signs and one that is published already and will sign next. All changes happen under one lock, so that
replicas agree; each reads them again on the event of a change, and every half minute in case it missed one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from cryptography.exceptions import InvalidTag
from joserfc import jwt
from joserfc.jwk import OKPKey
from joserfc.jws import JWSRegistry
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from wireroom_auth.adapters import audit_trail
from wireroom_auth.adapters.encryption import SIGNING_KEYS, Sealing
from wireroom_auth.domain.signing_keys import MARGIN, PUBLISHED_BEFORE, SigningKey, current, upcoming
from wireroom_common.bus.envelope import Envelope
from wireroom_common.clock import Clock
from wireroom_common.db import Database
from wireroom_common.errors import ErrorKind, OperatorError, WireroomError
from wireroom_common.outbox import emit
from wireroom_protos.events.v1 import events_pb2

ALGORITHM = "EdDSA"
TOKEN_TYPE = "at+jwt"  # noqa: S105  a header value of RFC 9068
_LOCK = "wireroom_auth.signing_keys"


class _Registry(JWSRegistry):
    """Allows EdDSA alone. RFC 9864 renames it to Ed25519, which too few verifiers know yet; the library warns at each use."""

    def get_alg(self, name: str) -> Any:
        return self.algorithms[ALGORITHM] if name == ALGORITHM else super().get_alg(name)


@dataclass(frozen=True)
class Rotated:
    """What signs now, and until when its predecessor is published."""

    kid: str
    previous_until: datetime


class SigningKeys:
    """Signs with the current key; publishes all that may have signed a token that lives, and the next one."""

    def __init__(
        self, database: Database, clock: Clock, sealing: Sealing, *, token_life: timedelta, rotate_after: timedelta
    ) -> None:
        self._database = database
        self._clock = clock
        self._sealing = sealing
        self._token_life = token_life
        self._rotate_after = rotate_after
        self._registry = _Registry(algorithms=[ALGORITHM])
        self._key: OKPKey | None = None

    async def load(self) -> None:
        """Read what signs, or make the installation's first keys: the lock leaves all replicas with the same.

        Raises OperatorError when the master secret is not the one that the keys were stored under.
        """
        async with self._database.system() as connection:
            await _lock(connection)
            self._key = await self._ensure(connection)

    async def maintain(self) -> None:
        """Read again; rotate when the current key is old enough; remove keys that are not published any more."""
        now = self._clock.now()
        async with self._database.system() as connection:
            await _lock(connection)
            await connection.execute(text("DELETE FROM signing_keys WHERE retired_at <= :now"), {"now": now})
            key = await self._ensure(connection)
            present = await _stored(connection)
            signing = current(present)
            if signing is not None and signing.signs_from is not None and now - signing.signs_from >= self._rotate_after:
                key = await self._replace(connection, present, now, "schedule")
        self._key = key

    async def rotate(self, *, actor: str) -> Rotated:
        """The next key signs from now on. CONFLICT `signing_key_too_new` until it has been published long enough for all to know it."""
        now = self._clock.now()
        async with self._database.system() as connection:
            await _lock(connection)
            await self._ensure(connection)
            present = await _stored(connection)
            waiting = upcoming(present)
            wait = waiting.created_at + PUBLISHED_BEFORE - now if waiting else PUBLISHED_BEFORE
            if wait > timedelta(0):
                raise WireroomError(
                    ErrorKind.CONFLICT,
                    "signing_key_too_new",
                    f"The next signing key must be known everywhere before it signs; try again in {wait.total_seconds():.0f} s.",
                    retry_after=wait.total_seconds(),
                )
            key = await self._replace(connection, present, now, actor)
        self._key = key
        return Rotated(str(key.kid), self._ends(now))

    async def on_event(self, envelope: Envelope) -> None:
        """Another replica rotated."""
        if envelope.type == "auth.signing_key.rotated":
            await self.load()

    def sign(self, claims: Mapping[str, Any]) -> str:
        if self._key is None:
            msg = "The signing key is not loaded: the service has not started."
            raise RuntimeError(msg)
        header = {"alg": ALGORITHM, "typ": TOKEN_TYPE, "kid": self._key.kid}
        return jwt.encode(header, dict(claims), self._key, registry=self._registry)

    async def jwks(self) -> bytes:
        async with self._database.system() as connection:
            rows = await connection.execute(
                text(
                    "SELECT public_jwk FROM signing_keys WHERE retired_at IS NULL OR retired_at > :now ORDER BY created_at, kid"
                ),
                {"now": self._clock.now()},
            )
            return json.dumps({"keys": [json.loads(row.public_jwk) for row in rows]}).encode()

    def _ends(self, now: datetime) -> datetime:
        return now + self._token_life + MARGIN

    async def _ensure(self, connection: AsyncConnection) -> OKPKey:
        """The current key; it and the next one are made if they are missing."""
        present = await _stored(connection)
        signing = current(present)
        if signing is None:
            key = await self._create(connection, signs_from=self._clock.now())
        else:
            key = await self._private(connection, signing.kid)
        if upcoming(present) is None:
            await self._create(connection, signs_from=None)
        return key

    async def _replace(self, connection: AsyncConnection, present: list[SigningKey], now: datetime, actor: str) -> OKPKey:
        waiting = upcoming(present)
        if waiting is None:
            raise RuntimeError("There is no signing key to change to.")
        await connection.execute(
            text("UPDATE signing_keys SET retired_at = :ends WHERE retired_at IS NULL AND signs_from IS NOT NULL"),
            {"ends": self._ends(now)},
        )
        await connection.execute(
            text("UPDATE signing_keys SET signs_from = :now WHERE kid = :kid"), {"kid": waiting.kid, "now": now}
        )
        await self._create(connection, signs_from=None)
        await emit(
            connection,
            events_pb2.AuthSigningKeyRotated(kid=waiting.kid),
            tenant_id=None,
            subject=waiting.kid,
            actor=actor,
        )
        await audit_trail.record(
            connection,
            "signing_key.rotated",
            tenant_id=None,
            subject=waiting.kid,
            actor=actor,
            details={"previous_until": self._ends(now).isoformat()},
        )
        return await self._private(connection, waiting.kid)

    async def _private(self, connection: AsyncConnection, kid: str) -> OKPKey:
        sealed = await connection.scalar(text("SELECT private_key_sealed FROM signing_keys WHERE kid = :kid"), {"kid": kid})
        try:
            private = self._sealing.unseal(SIGNING_KEYS, bytes(sealed or b""), bound_to=kid.encode())
        except InvalidTag:
            raise OperatorError(
                "The stored signing key cannot be decrypted with this master secret; set WIREROOM_MASTER_SECRET to the one"
                " the installation was made with, or was changed to last."
            ) from None
        return OKPKey.import_key(json.loads(private))

    async def _create(self, connection: AsyncConnection, *, signs_from: datetime | None) -> OKPKey:
        bare = OKPKey.generate_key("Ed25519")
        kid = bare.thumbprint()
        private = {**bare.as_dict(private=True), "kid": kid, "use": "sig", "alg": ALGORITHM}
        key = OKPKey.import_key(private)
        await connection.execute(
            text(
                "INSERT INTO signing_keys (kid, public_jwk, private_key_sealed, created_at, signs_from)"
                " VALUES (:kid, :public, :sealed, :now, :signs_from)"
            ),
            {
                "kid": kid,
                "public": json.dumps(key.as_dict(private=False)),
                "sealed": self._sealing.seal(SIGNING_KEYS, json.dumps(private).encode(), bound_to=kid.encode()),
                "now": self._clock.now(),
                "signs_from": signs_from,
            },
        )
        return key


async def _lock(connection: AsyncConnection) -> None:
    await connection.execute(text("SELECT pg_advisory_xact_lock(hashtextextended(:lock, 0))"), {"lock": _LOCK})


async def _stored(connection: AsyncConnection) -> list[SigningKey]:
    rows = await connection.execute(text("SELECT kid, created_at, signs_from, retired_at FROM signing_keys"))
    return [SigningKey(row.kid, row.created_at, row.signs_from, row.retired_at) for row in rows]
