"""The stored form of a text: what citations count their characters in."""

from __future__ import annotations

import re
from collections.abc import Sequence

from wireroom_rag.domain.document import ExtractedText, RejectedError

# Controls mean nothing in a text, NUL and surrogates cannot be stored. The rest is what no reader sees and a model reads: soft hyphens,
# zero-width characters, marks and overrides of direction (which show a text in another order than it has), invisible operators,
# annotations, fillers, tags and variation selectors beyond the sixteen that choose between forms of a character.
_UNWANTED = re.compile(
    "[\x00-\x08\x0b\x0e-\x1f\x7f\x80-\x84\x86-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b\u200e\u200f\u202a-\u202e"
    "\u2060-\u206f\u3164\ufeff\uffa0\ufff0-\ufffb\ufffe\uffff\ud800-\udfff\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)
# Of runs of what is looked for only the beginning is tried: each place in a run would cost the length of its rest.
# Joiners mean something inside of some scripts and of emoji only, and there one is enough.
_LATIN_JOINER = re.compile(
    "(?<=[\\x00-\u024f])[\u200c\u200d]+|(?<![\u200c\u200d])[\u200c\u200d]++(?=[\\x00-\u024f])|^[\u200c\u200d]+"
)
_JOINERS = re.compile("([\u200c\u200d])[\u200c\u200d]+")
_LINE_ENDS = re.compile("\r\n?|\x0c|\x85|\u2028|\u2029")
_TRAILING = re.compile(r"(?<![ \t\u00a0])[ \t\u00a0]++\n")
_EMPTY_LINES = re.compile(r"\n{3,}")
_WORD = re.compile(r"\w")
_PAGE_GAP = "\n\n"


def stored_text(parts: Sequence[str], *, paged: bool, max_characters: int) -> ExtractedText:
    """Clean the parts (pages when `paged`) and join them. RejectedError `document_no_text` or `document_too_complex`."""
    starts: list[int] = []
    pieces: list[str] = []
    length = 0
    for part in parts:
        if pieces:
            pieces.append(_PAGE_GAP)
            length += len(_PAGE_GAP)
        starts.append(length)
        pieces.append(clean(part))
        length += len(pieces[-1])
        if length > max_characters:
            raise RejectedError(
                "document_too_complex", f"The document has more than {max_characters} characters of text. Split it."
            )
    content = "".join(pieces)
    if not _WORD.search(content):
        raise RejectedError("document_no_text", "The document holds no text (scanned pages need text recognition first).")
    return ExtractedText(content, tuple(starts) if paged else ())


def clean(text: str) -> str:
    """One form of line ends, no control or invisible characters, at most one empty line in a row, no blanks around."""
    text = _UNWANTED.sub("", _LINE_ENDS.sub("\n", text))
    text = _JOINERS.sub(r"\1", _LATIN_JOINER.sub("", text))
    return _EMPTY_LINES.sub("\n\n", _TRAILING.sub("\n", text)).strip()
