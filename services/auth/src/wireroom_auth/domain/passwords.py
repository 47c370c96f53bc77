"""What a password must be, and the one form in which it is hashed."""

from __future__ import annotations

import re
import unicodedata

from wireroom_common.errors import WireroomError, invalid

MIN_CHARACTERS = 12
MAX_BYTES = 1024
# Shorter parts of a name occur by chance in good passwords.
_SHORTEST_PERSONAL_PART = 3


def normalised(password: str) -> str:
    """NFC (as in RFC 8265): the same password typed on another system gives the same bytes."""
    return unicodedata.normalize("NFC", password)


def is_too_long(password: str) -> bool:
    """Whether the password exceeds what is ever hashed."""
    return len(normalised(password).encode("utf-8", "surrogatepass")) > MAX_BYTES


def check_new_password(password: str, *, email: str, name: str) -> None:
    """INVALID unless the password may be chosen by this person. There are no composition rules."""
    text = normalised(password)
    if is_too_long(password):
        raise _refused("password_too_long", f"The password is longer than {MAX_BYTES} bytes; choose a shorter one.")
    if len(text) < MIN_CHARACTERS:
        raise _refused("password_too_short", f"The password needs at least {MIN_CHARACTERS} characters; a few words will do.")
    folded = text.casefold()
    for part in _personal_parts(email, name):
        if part in folded:
            raise _refused(
                "password_personal", "The password contains your name or the first part of your e-mail address; choose another."
            )


def _personal_parts(email: str, name: str) -> set[str]:
    whole = unicodedata.normalize("NFC", name).casefold().strip()
    local = unicodedata.normalize("NFC", email).casefold().rpartition("@")[0]
    parts = {local, whole, *re.split(r"\s+", whole)}
    return {part for part in parts if len(part) >= _SHORTEST_PERSONAL_PART}


def _refused(code: str, detail: str) -> WireroomError:
    return invalid(code, detail, field="password")
