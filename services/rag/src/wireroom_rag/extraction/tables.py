"""Tables as lines of text, one per row."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

_BLANKS = re.compile(r"\s+")


def row_line(cells: Sequence[str]) -> str:
    """`| a | b |`; empty for a row without text. Trailing empty cells are left out."""
    texts = [_BLANKS.sub(" ", cell).strip().replace("|", "\\|") for cell in cells]
    while texts and not texts[-1]:
        texts.pop()
    return f"| {' | '.join(texts)} |" if texts else ""


def table_text(rows: Iterable[Sequence[str]]) -> str:
    """The rows, each in its line; those without text are left out."""
    return "\n".join(line for row in rows if (line := row_line(row)))
