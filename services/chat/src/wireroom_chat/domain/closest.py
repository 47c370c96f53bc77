"""Where to read on when no sentence answers: the sources that come nearest, by name, without any claim about what they say."""

from __future__ import annotations

import re
from collections.abc import Sequence

from wireroom_chat.domain.passages import STEERING, Passage

_MOST = 3
_LONGEST = 120
# Nothing in a name may look like a citation, a link or markup.
_ACTING = re.compile(r"[\[\]<>`*]")


def closest(passages: Sequence[Passage]) -> str:
    """One line with the best three sources and their pages, each once; empty where none has a name."""
    names: dict[str, None] = {}
    for passage in passages:
        title = " ".join(_ACTING.sub("", STEERING.sub("", passage.title)).split())[:_LONGEST]
        if title:
            names.setdefault(f"{title}, page {passage.page}" if passage.page > 1 else title)
        if len(names) == _MOST:
            break
    return f"Closest in the sources: {'; '.join(names)}." if names else ""
