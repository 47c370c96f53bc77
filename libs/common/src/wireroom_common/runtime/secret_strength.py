"""Whether a secret is good enough to protect an installation."""

from __future__ import annotations

import math

MINIMUM_BYTES = 32
MINIMUM_BITS = 128
_MINIMUM_DISTINCT = 10
_SHORTEST_REPEAT = 3

# Values of documentations and templates, in lower case and without separators; a secret that contains one was not made at random.
_SAMPLES = (
    "changeme",
    "changethis",
    "replaceme",
    "supersecret",
    "mysecret",
    "jwtsecret",
    "secretkey",
    "mastersecret",
    "notsecret",
    "secret",
    "password",
    "passwort",
    "passphrase",
    "example",
    "yourkey",
    "yoursecret",
    "yourjwt",
    "yourown",
    "yoursuper",
    "default",
    "insecure",
    "placeholder",
    "opensslrand",
    "wireroom",
    "letmein",
    "qwertyuiop",
    "correcthorse",
    "loremipsum",
    "deadbeefdeadbeef",
    "0123456789abcdef",
    "xxxxxxxx",
)
_SEPARATORS = str.maketrans("", "", " -_.:/+=$%<>{}[]()\"'!@#*,;|\\\t")


def weakness(value: bytes) -> str:
    """Why the secret is not good enough, as the end of a sentence; empty if it is. Tells nothing of the secret itself."""
    if len(value) < MINIMUM_BYTES:
        return f"it has {len(value)} bytes; at least {MINIMUM_BYTES} are needed"
    plain = value.decode(errors="replace").lower().translate(_SEPARATORS)
    if any(sample in plain for sample in _SAMPLES):
        return "it is, or contains, a sample value that everybody knows"
    if len(set(value)) < _MINIMUM_DISTINCT or estimated_bits(value) < MINIMUM_BITS:
        return "it repeats itself, follows a pattern or has few different characters, so that it can be guessed"
    return ""


def estimated_bits(value: bytes) -> float:
    """A rough upper estimate of the bits in `value`.

    Each byte counts as one of those that occur, unless it continues the byte before (equal, next or previous), or at least three bytes
    that stand earlier, too: a repetition counts as its place and length.
    """
    if not value:
        return 0.0
    each = math.log2(max(2, len(set(value))))
    reference = 2 * math.log2(len(value) + 1)
    bits, position = each, 1
    while position < len(value):
        repeated = _repeat(value, position)
        if repeated >= _SHORTEST_REPEAT:
            bits += min(reference, repeated * each)
            position += repeated
            continue
        bits += 1.0 if abs(value[position] - value[position - 1]) <= 1 else each
        position += 1
    return bits


def _repeat(value: bytes, position: int) -> int:
    """How many bytes from `position` on stand somewhere before in the same order."""
    length = 0
    while position + length < len(value) and value.find(value[position : position + length + 1], 0, position + length) >= 0:
        length += 1
    return length
