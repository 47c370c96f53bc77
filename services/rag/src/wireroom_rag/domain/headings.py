"""What stands above a passage: the title of its text and the headings it belongs to."""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Sequence

from wireroom_rag.domain.document import Chunk
from wireroom_rag.domain.lexicon import Lexicon

# Headings as extraction writes them; a longer line is no heading.
_HEADING = re.compile(r"^(#{1,6})[ \t]+(\S.{0,199})$", re.MULTILINE)
# Of one passage; a table of contents is not what all of its lines are about.
_MOST_INSIDE = 8


def heads(title: str, content: str, chunks: Sequence[Chunk]) -> list[str]:
    """For each chunk the title, the headings in force where it begins, and those inside of it."""
    found = [(match.start(), len(match[1]), match[2]) for match in _HEADING.finditer(content)]
    offsets = [offset for offset, _, _ in found]
    paths = _paths(found)
    result = []
    for chunk in chunks:
        first, behind = bisect_left(offsets, chunk.start), bisect_right(offsets, chunk.end - 1)
        inside = [line for _, _, line in found[first:behind]]
        result.append("\n".join([title, *(paths[first - 1] if first else []), *inside[:_MOST_INSIDE]]))
    return result


def title_terms(title: str, content: str, chunks: Sequence[Chunk]) -> list[Counter[str]]:
    """The terms of each chunk's `heads`; the words of a title, which may be a file's name, may be joined by underscores."""
    lexicon = Lexicon()
    return [lexicon.terms(head) for head in heads(title.replace("_", " "), content, chunks)]


def _paths(found: Sequence[tuple[int, int, str]]) -> list[list[str]]:
    """For each heading those it stands under, and itself."""
    paths: list[list[str]] = []
    open_levels: list[tuple[int, str]] = []
    for _, level, line in found:
        open_levels = [entry for entry in open_levels if entry[0] < level] + [(level, line)]
        paths.append([text for _, text in open_levels])
    return paths
