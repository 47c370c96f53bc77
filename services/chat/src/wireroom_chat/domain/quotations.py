"""Words that a sentence puts into somebody's mouth: what stands between quotation marks must stand in the source, word for word."""

from __future__ import annotations

import re
import unicodedata

from wireroom_chat.domain.statements import INVISIBLE

_LOOKALIKES = str.maketrans(
    dict.fromkeys("\u201c\u201d\u201e\u201f\u00ab\u00bb\u301d\u301e\u2033\uff02", '"')
    | dict.fromkeys("\u2018\u2019\u201a\u201b\u2039\u203a`\u00b4\u2032", "'")
)
# Apostrophes are no quotation marks: single ones count where they stand around words.
_SINGLE = re.compile(r"(?<!\w)'(?=\S)(.+?)(?<=\S)'(?!\w)")
# Left out of a quote, as "..." or in brackets.
_GAP = re.compile(r"\s*(?:\[\s*(?:\.\.\.|\u2026)\s*\]|\(\s*(?:\.\.\.|\u2026)\s*\)|\.\.\.|\u2026)\s*")
_EDGE = " .,;:!?"


def plain(text: str) -> str:
    """Text as quotes are compared: white space, composition, invisible characters and the kind of quotation marks do not count."""
    return " ".join(unicodedata.normalize("NFC", INVISIBLE.sub("", text)).translate(_LOOKALIKES).split())


def quoted(sentence: str) -> list[str]:
    """What the sentence quotes, plain. A quotation that is not closed goes on to the end, one that was not opened begins at the start."""
    text = plain(sentence)
    parts = text.split('"')
    found = parts[1::2]
    if len(parts) == 2:  # noqa: PLR2004 - one mark: two sides
        # The sentence before had the other mark, or the one after has it.
        found = [parts[0]] if not parts[1].strip(_EDGE) else [parts[1]]
    elif len(parts) % 2 == 0:
        found = [*parts[1:-1:2], parts[-1]]
    outside = " ".join(parts[0::2])
    found += [match.group(1) for match in _SINGLE.finditer(outside)]
    return [quote.strip(_EDGE) for quote in found if any(character.isalnum() for character in quote)]


def stands_in(quote: str, source: str) -> bool:
    """Whether a quote, as `quoted` gives it, stands in a source that is `plain`: its parts whole, in order, and at borders of words."""
    at = 0
    for part in _GAP.split(quote):
        wanted = part.strip(_EDGE)
        if not wanted:
            continue
        found = re.compile(rf"(?<!\w){re.escape(wanted)}(?!\w)").search(source, at)
        if found is None and wanted[0].isalpha():
            # A quote that begins in the middle of a sentence, or begins one, may change its first letter.
            found = re.compile(rf"(?<!\w){re.escape(wanted[0].swapcase() + wanted[1:])}(?!\w)").search(source, at)
        if found is None:
            return False
        at = found.end()
    return True
