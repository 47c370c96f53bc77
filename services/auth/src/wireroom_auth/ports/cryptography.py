"""Hashing and signing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol


class PasswordHashing(Protocol):
    """Argon2id, and bcrypt for imported hashes, off the event loop. Everything here is UNAVAILABLE when too many wait."""

    async def hash(self, password: str) -> str:
        """The hash to store."""

    async def hash_new(self, password: str, *, email: str, name: str) -> str:
        """The hash of a password that this person chooses; INVALID, with a code for the reason, unless they may choose it."""

    async def verify(self, password: str, password_hash: str | None, *, usable: bool = True) -> bool:
        """Whether the password fits; False for None.

        What does not fit, is None, or is not `usable` for another reason, takes the same work in all cases.
        """

    def is_current(self, password_hash: str) -> bool:
        """Whether the hash was made as `hash` makes them now."""


class AccessTokenSigner(Protocol):
    """Signs access tokens."""

    def sign(self, claims: Mapping[str, Any]) -> str:
        """A compact JWS of type `at+jwt`."""

    async def jwks(self) -> bytes:
        """The public keys as JSON Web Key Set."""
