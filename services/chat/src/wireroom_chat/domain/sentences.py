"""Sentence boundaries, with offsets: joining the spans of a text gives the text back."""

from __future__ import annotations

import re

# A place where a sentence may end: final punctuation with closing quotes before white space, CJK full stops, an empty line, a list item.
_CANDIDATE = re.compile(
    r"""
    (?P<stop>(?<![.!?…\u061f\u06d4\u0964\u0965])[.!?…\u061f\u06d4\u0964\u0965]++   # all of it: Arabic, Urdu, Hindi, too
        (?:[\u00a0\u202f\x20]?»|["'”“\u2019\u2018\u203a)\]])*+(?=\s))              # then closing quotes and brackets
    | (?P<cjk>[。\uff01\uff1f\uff61]++[」』”\u2019\uff09]*+)
    | (?P<blank>\n[ \t\r]*\n)
    | (?P<item>\n(?=[ \t]*(?:[-*•‣\u2013]|\d{1,3}[.)])[ \t]))
    """,
    re.VERBOSE,
)
_ABBREVIATIONS_TEXT = (
    "al approx apr art aug ca cf ch co col corp dec dept dr e.g ed eds eq est etc feb fig figs gen gov hon i.e inc jan "
    "jr jul jun lt ltd mar mr mrs ms mt no nov nr oct op p pp prof rev rep sec sen sep sept sgt sr st ste tel u.k u.n "
    "u.s u.s.a v vol vs "
    # German, French, Spanish, Italian.
    "abs bspw bzw d evtl geb gest ggf hrsg inkl jh mio mrd str tsd u vgl z z.b "
    "av bd chap env mm dra ee núm pág págs sra srta dott sig "
)
_ABBREVIATIONS = frozenset(_ABBREVIATIONS_TEXT.split())
_LAST_WORD = re.compile(r"([^\s(\[\"'“„\u2018«¿¡]+)$")
_LOOK_BACK = 24
# "3. März" is a date, and "2. Quartal" the second one.
_ORDINAL_OF = re.compile(
    r"(?:Januar|Jänner|Februar|März|April|Mai|Juni|Juli|August|September|Oktober|November|Dezember"
    r"|Quartal|Halbjahr|Jahrhundert|Stock|Etage|Klasse|Auflage|Runde|Platz|Tag|Woche|Absatz)\b"
)
_WHITE = re.compile(r"\s*")


def is_false_stop(text: str, at: int, after: int) -> bool:
    """Whether the punctuation at `at` ends no sentence: an abbreviation, an initial, a number, or a small letter at `after`."""
    if after < len(text) and text[after].islower():
        return True
    if text[at] != ".":
        return False
    word = _LAST_WORD.search(text[max(0, at - _LOOK_BACK) : at])
    if word is None:
        return False
    last = word.group(1)
    if last.isdigit() and "\n" in text[max(0, at - len(last) - 1) : at - len(last)]:
        return True
    if last.isdigit() and len(last) <= 2 and _ORDINAL_OF.match(text, after):  # noqa: PLR2004 - a day, a quarter, a century
        return True
    return (len(last) == 1 and last.isalpha() and last.isupper()) or last.lower().rstrip(".") in _ABBREVIATIONS


def split(text: str) -> list[tuple[int, int]]:
    """Spans of the sentences of `text`, white space after a sentence belonging to it; together they cover the whole text."""
    spans: list[tuple[int, int]] = []
    start = end = 0
    for match in _CANDIDATE.finditer(text):
        # Several candidates may stand in one run of white space, whose end is known then.
        if match.end() > end:
            white = _WHITE.match(text, match.end())
            end = white.end() if white else match.end()
        if end <= start or end >= len(text):
            continue
        if match.lastgroup == "stop" and is_false_stop(text, match.start(), end):
            continue
        spans.append((start, end))
        start = end
    if start < len(text):
        spans.append((start, len(text)))
    return spans


def trimmed(text: str) -> list[tuple[int, int]]:
    """Spans of the sentences without surrounding white space; empty ones are left out."""
    result = []
    for start, end in split(text):
        piece = text[start:end]
        left = start + len(piece) - len(piece.lstrip())
        right = start + len(piece.rstrip())
        if left < right:
            result.append((left, right))
    return result
