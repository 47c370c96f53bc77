"""Let the next signing key sign."""

from __future__ import annotations

from datetime import datetime
from typing import Protocol

from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_common.principal import Principal, PrincipalKind

MANAGE = "config:manage"


class Rotation(Protocol):
    """What a rotation did."""

    @property
    def kid(self) -> str:
        """The key that signs now."""

    @property
    def previous_until(self) -> datetime:
        """When its predecessor stops being published."""


class SigningKeyRing(Protocol):
    """The keys of the installation."""

    async def rotate(self, *, actor: str) -> Rotation:
        """Change keys; CONFLICT when the next key is too new."""


class RotateSigningKey:
    """For operators of the installation."""

    def __init__(self, keys: SigningKeyRing) -> None:
        self._keys = keys

    async def run(self, caller: Principal) -> Rotation:
        """The rotation; FORBIDDEN without the permission, or with an API key."""
        caller.require(MANAGE)
        if caller.kind is not PrincipalKind.USER:
            raise WireroomError(ErrorKind.FORBIDDEN, "session_required", "Signing keys are rotated by a signed-in operator.")
        return await self._keys.rotate(actor=caller.subject)
