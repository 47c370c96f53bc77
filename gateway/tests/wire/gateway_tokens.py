"""Access tokens as `auth` makes them, and as it never would."""

from __future__ import annotations

import base64
import json
import time
from typing import Any
from uuid import UUID

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

TENANT = UUID("0198a000-0000-7000-8000-000000000001")
USER = UUID("0198a000-0000-7000-8000-0000000000aa")
SESSION = UUID("0198a000-0000-7000-8000-0000000000bb")
KID = "key-1"


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class Issuer:
    """A signing key and its public half."""

    def __init__(self, kid: str = KID) -> None:
        self.kid = kid
        self.private = Ed25519PrivateKey.generate()

    @property
    def public_raw(self) -> bytes:
        return self.private.public_key().public_bytes_raw()

    @property
    def pem(self) -> bytes:
        return self.private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)

    def jwks(self) -> bytes:
        key = {"kty": "OKP", "crv": "Ed25519", "x": b64(self.public_raw), "kid": self.kid, "use": "sig", "alg": "EdDSA"}
        return json.dumps({"keys": [key]}).encode()

    def header(self, **changes: Any) -> dict[str, Any]:
        return _changed({"alg": "EdDSA", "typ": "at+jwt", "kid": self.kid}, changes)

    def claims(self, *permissions: str, **changes: Any) -> dict[str, Any]:
        now = int(time.time())
        claims = {
            "iss": "wireroom",
            "aud": "wireroom",
            "sub": str(USER),
            "tid": str(TENANT),
            "sid": str(SESSION),
            "jti": "0198a000-0000-7000-8000-0000000000cc",
            "roles": ["Analyst"],
            "perms": list(permissions),
            "epoch": 0,
            "iat": now,
            "nbf": now,
            "exp": now + 1800,
        }
        return _changed(claims, changes)

    def sign(self, header: bytes, payload: bytes) -> str:
        signed = f"{b64(header)}.{b64(payload)}"
        return f"{signed}.{b64(self.private.sign(signed.encode()))}"

    def token(self, *permissions: str, header: dict[str, Any] | None = None, **changes: Any) -> str:
        """A token with `permissions`; `changes` replace claims, None removes one."""
        head = self.header(**(header or {}))
        return self.sign(json.dumps(head).encode(), json.dumps(self.claims(*permissions, **changes)).encode())


def _changed(values: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in {**values, **changes}.items() if value is not None}
