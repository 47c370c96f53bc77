"""Words that a sentence puts into somebody's mouth: what stands between quotation marks must stand in the source, word for word."""

from __future__ import annotations

import re
import unicodedata

from wireroom_chat.domain.statements import INVISIBLE

_LOOKALIKES = str.maketrans(
    dict.fromkeys("\u201c\u201d\u201e\u201f\u00ab\u00bb\u301d\u301e\u2033\uff02\u300c\u300d\u300e\u300f", '"')
    | dict.fromkeys("\u2018\u2019\u201a\u201b\u2039\u203a`\u00b4\u2032", "'")
)
# Apostrophes are no quotation marks: single ones count where they stand around words.
_OPENING = re.compile(r"(?<!\w)'(?=\S)")
_CLOSING = re.compile(r"(?<=\S)'(?!\w)")
# Left out of a quote, as "..." or in brackets.
_GAP = re.compile(r"(?:(?<!\s)\s++)?(?:\[\s*(?:\.\.\.|\u2026)\s*\]|\(\s*(?:\.\.\.|\u2026)\s*\)|\.\.\.|\u2026)\s*")
_EDGE = " .,;:!?¡¿。\uff0c\uff01\uff1f؟।"
# Scripts that put no white space between words, which therefore have no borders.
_UNSPACED = re.compile("[\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]")


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
    found += _single(outside)
    return [quote.strip(_EDGE) for quote in found if any(character.isalnum() for character in quote)]


def _single(text: str) -> list[str]:
    """What stands between single quotation marks: from one that opens to the next that closes, with something in between."""
    found: list[str] = []
    closing = [match.start() for match in _CLOSING.finditer(text)]
    at = next_closing = 0
    for opening in (match.start() for match in _OPENING.finditer(text)):
        if opening < at:
            continue
        while next_closing < len(closing) and closing[next_closing] < opening + 2:
            next_closing += 1
        if next_closing == len(closing):
            break
        at = closing[next_closing] + 1
        found.append(text[opening + 1 : at - 1])
    return found


def stands_in(quote: str, source: str) -> bool:
    """Whether a quote, as `quoted` gives it, stands in a source that is `plain`: its parts whole, in order, and at borders of words."""
    at = 0
    for part in _GAP.split(quote):
        wanted = part.strip(_EDGE)
        if not wanted:
            continue
        found = _whole(wanted).search(source, at)
        if found is None and wanted[0].isalpha():
            # A quote that begins in the middle of a sentence, or begins one, may change its first letter.
            found = _whole(wanted[0].swapcase() + wanted[1:]).search(source, at)
        if found is None:
            return False
        at = found.end()
    return True


def _whole(part: str) -> re.Pattern[str]:
    before = "" if _UNSPACED.match(part[0]) else r"(?<!\w)"
    after = "" if _UNSPACED.match(part[-1]) else r"(?!\w)"
    return re.compile(before + re.escape(part) + after)
