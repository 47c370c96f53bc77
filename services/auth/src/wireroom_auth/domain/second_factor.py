"""Time-based one-time passwords (RFC 6238: SHA-1, 6 digits, 30 seconds) and the recovery codes that stand in for them."""

from __future__ import annotations

import base64
import hmac
import re
import secrets
from dataclasses import dataclass
from datetime import datetime

from cryptography.hazmat.primitives.hashes import SHA1
from cryptography.hazmat.primitives.twofactor.totp import TOTP

from wireroom_common.errors import ErrorKind, WireroomError

RECOVERY_CODES = 10

_SECRET_BYTES = 20
_STEP = 30
_DIGITS = 6
# Clocks of phones are off by seconds, and codes are typed at the end of their half minute.
_STEPS_OFF = 1
_CODE = re.compile(r"[0-9]{6}")
# Without letters and digits that are taken for others.
_RECOVERY_ALPHABET = "abcdefghjkmnpqrstuvwxyz23456789"
_RECOVERY_LENGTH = 16
_RECOVERY_CODE = re.compile(rf"[{_RECOVERY_ALPHABET}]{{{_RECOVERY_LENGTH}}}")


@dataclass(frozen=True)
class SecondFactorState:
    """What a user has."""

    confirmed_at: datetime | None
    recovery_codes_left: int


def new_secret() -> bytes:
    """160 random bits."""
    return secrets.token_bytes(_SECRET_BYTES)


def base32(secret: bytes) -> str:
    """The secret as people type it into an authenticator."""
    return base64.b32encode(secret).decode().rstrip("=")


def provisioning_uri(secret: bytes, *, account: str, issuer: str) -> str:
    """The `otpauth://` URI that authenticators read from a QR code."""
    return _totp(secret).get_provisioning_uri(account, issuer)


def accepted_step(secret: bytes, code: str, *, now: datetime, last_step: int) -> int | None:
    """The time step whose code this is; None if it fits none of those around now, or only ones up to `last_step`.

    Each step is accepted once (RFC 6238 section 5.2): store it as the new `last_step`.
    """
    if not _CODE.fullmatch(code):
        return None
    totp = _totp(secret)
    current = int(now.timestamp()) // _STEP
    found = None
    for step in range(current - _STEPS_OFF, current + _STEPS_OFF + 1):
        # All are compared, whichever fits: the time tells nothing.
        if hmac.compare_digest(totp.generate(step * _STEP), code.encode()) and step > last_step and found is None:
            found = step
    return found


def new_recovery_codes() -> list[str]:
    """Codes of 79 random bits each, in groups of four."""
    codes: set[str] = set()
    while len(codes) < RECOVERY_CODES:
        codes.add("".join(secrets.choice(_RECOVERY_ALPHABET) for _ in range(_RECOVERY_LENGTH)))
    return ["-".join(code[start : start + 4] for start in range(0, _RECOVERY_LENGTH, 4)) for code in sorted(codes)]


def recovery_code_of(text: str) -> str | None:
    """The code in the one form that is hashed, however it was typed; None if it is none."""
    code = re.sub(r"[\s-]", "", text[:100]).lower()
    return code if _RECOVERY_CODE.fullmatch(code) else None


def normalised_code(text: str) -> str:
    """A TOTP code without the space that authenticators show in its middle."""
    return re.sub(r"[\s]", "", text[:20]) if text.isascii() else ""


def code_invalid() -> WireroomError:
    """A wrong, spent or late code."""
    return WireroomError(
        ErrorKind.UNAUTHENTICATED,
        "mfa_code_invalid",
        "The code is wrong or was used already; wait for the next one and try again.",
    )


def mfa_token_invalid() -> WireroomError:
    """The half-finished login is not there (any more)."""
    return WireroomError(
        ErrorKind.UNAUTHENTICATED,
        "mfa_token_invalid",
        "This login has expired, was finished already or took too many wrong codes; sign in again.",
    )


def _totp(secret: bytes) -> TOTP:
    return TOTP(secret, _DIGITS, SHA1(), _STEP)  # noqa: S303 - what authenticators know; HMAC does not need collision resistance
