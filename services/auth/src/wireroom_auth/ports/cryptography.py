"""Hashing and signing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol


class PasswordHashing(Protocol):
    """Argon2id, off the event loop."""

    async def hash(self, password: str) -> str:
        """The hash to store; UNAVAILABLE when too many wait."""

    async def verify(self, password: str, password_hash: str | None) -> bool:
        """Whether the password fits; False for None, after the same work. UNAVAILABLE when too many wait."""


class AccessTokenSigner(Protocol):
    """Signs access tokens."""

    def sign(self, claims: Mapping[str, Any]) -> str:
        """A compact JWS of type `at+jwt`."""

    async def jwks(self) -> bytes:
        """The public keys as JSON Web Key Set."""
