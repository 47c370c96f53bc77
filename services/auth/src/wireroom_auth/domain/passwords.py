"""What a password must be, and the one form in which it is hashed."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from difflib import SequenceMatcher

from wireroom_common.errors import WireroomError, invalid

MIN_CHARACTERS = 12
MAX_BYTES = 1024
# Shorter parts of a name occur by chance in good passwords.
_SHORTEST_PERSONAL_PART = 3
# Shorter parts resemble too many words.
_SHORTEST_SIMILAR_PART = 6
_TOO_SIMILAR = 0.7
# What is left of the password, beside what the person is called, must be as long as this to make it a password of its own.
_REMAINDER = 8
_LONGEST_COMPARED = 128
_LEET = str.maketrans("0134578@$!|+", "oieastbasilt")


def normalised(password: str) -> str:
    """NFC (as in RFC 8265): the same password typed on another system gives the same bytes."""
    return unicodedata.normalize("NFC", password)


def is_too_long(password: str) -> bool:
    """Whether the password exceeds what is ever hashed."""
    return len(normalised(password).encode("utf-8", "surrogatepass")) > MAX_BYTES


def check_new_password(password: str, *, email: str, name: str) -> None:
    """INVALID unless the password may be chosen by this person, as far as that shows without a list of common ones.

    There are no composition rules.
    """
    text = normalised(password)
    if is_too_long(password):
        raise _refused("password_too_long", f"The password is longer than {MAX_BYTES} bytes; choose a shorter one.")
    if len(text) < MIN_CHARACTERS:
        raise _refused("password_too_short", f"The password needs at least {MIN_CHARACTERS} characters; a few words will do.")
    if is_personal(text, email=email, name=name):
        raise _refused(
            "password_personal", "The password contains or resembles your name or your e-mail address; choose another."
        )


def common_password() -> WireroomError:
    """The password is one of those that are tried first."""
    return _refused(
        "password_common",
        "The password is among those that are guessed first: a common word or pattern, repeated or slightly changed."
        " Choose another; a few unrelated words will do.",
    )


def personal_words(email: str, name: str) -> list[str]:
    """What the person is called, in parts: the parts of the name and of the address."""
    words = {part for part in re.split(r"[\s@._+\-]+", f"{name} {email}".casefold()) if len(part) >= _SHORTEST_PERSONAL_PART}
    return sorted(words)


def is_personal(password: str, *, email: str, name: str) -> bool:
    """Whether the password contains what the person is called, or is little more than a changed form of it."""
    folded = password.casefold()[:_LONGEST_COMPARED]
    parts = _personal_parts(email, name)
    if any(part in folded for part in parts):
        return True
    plain = _letters(folded)
    return any(_resembles(plain, _letters(part)) for part in parts)


def _resembles(password: str, part: str) -> bool:
    if len(part) < _SHORTEST_SIMILAR_PART:
        return False
    for form in (part, part[::-1]):
        if form in password and len(password) - len(form) < _REMAINDER:
            return True
        if SequenceMatcher(None, password, form, autojunk=False).ratio() >= _TOO_SIMILAR:
            return True
    return False


def _letters(text: str) -> str:
    """Letters only, without accents, with the digits and signs that commonly stand for letters turned into them."""
    bare = "".join(c for c in unicodedata.normalize("NFKD", text.translate(_LEET)) if not unicodedata.combining(c))
    return "".join(c for c in bare if c.isalpha())


def _personal_parts(email: str, name: str) -> set[str]:
    whole = unicodedata.normalize("NFC", name).casefold().strip()
    address = unicodedata.normalize("NFC", email).casefold()
    local, _, domain = address.rpartition("@")

    def all_parts() -> Iterator[str]:
        yield from (local, whole, address)
        yield from re.split(r"\s+", whole)
        yield re.sub(r"[^\w]", "", whole)
        # The organisation is worth as much to a guesser as the person, if it is not a short or public word by chance.
        yield from (label for label in domain.split(".")[:-1] if len(label) >= _SHORTEST_SIMILAR_PART)

    return {part for part in all_parts() if len(part) >= _SHORTEST_PERSONAL_PART}


def _refused(code: str, detail: str) -> WireroomError:
    return invalid(code, detail, field="password")
