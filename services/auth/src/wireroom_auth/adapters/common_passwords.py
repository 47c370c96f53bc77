"""Whether a password is among those that are guessed first, by the lists and patterns of zxcvbn.

The lists (30,000 leaked passwords, words, names; forms with digits for letters, reversed, repeated, keyboard rows, dates) are compiled
into the library, which is loaded at the first use: about 10 MB.
"""

from __future__ import annotations

from collections.abc import Sequence

# Below 10**8 guesses: "protection from throttled online attacks" at best, in the library's terms.
_LEAST_SCORE = 3
# The library looks at no more.
_LONGEST = 100


def is_common(password: str, personal_words: Sequence[str]) -> bool:
    """CPU work of a few milliseconds: not for the event loop. `personal_words` are guessed first, too."""
    from zxcvbn_rs_py import zxcvbn  # noqa: PLC0415 - its lists take memory that a service that sets no password need not pay

    text = password.encode("utf-8", "replace").decode("utf-8")[:_LONGEST]
    return int(zxcvbn(text, list(personal_words)).score) < _LEAST_SCORE
