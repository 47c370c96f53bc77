"""The stored form of a text: what citations count their characters in."""

from __future__ import annotations

import re
from collections.abc import Sequence

from wireroom_rag.domain.document import ExtractedText, RejectedError

# Controls mean nothing in a text, NUL and surrogates cannot be stored.
_UNWANTED = re.compile("[\x00-\x08\x0b\x0e-\x1f\x7f\ufeff\ufffe\uffff\ud800-\udfff]")
_LINE_ENDS = re.compile("\r\n?|\x0c|\u2028|\u2029")
_TRAILING = re.compile(r"[ \t\u00a0]+\n")
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
    """One form of line ends, no control characters, at most one empty line in a row, no blanks around."""
    text = _UNWANTED.sub("", _LINE_ENDS.sub("\n", text))
    return _EMPTY_LINES.sub("\n\n", _TRAILING.sub("\n", text)).strip()
