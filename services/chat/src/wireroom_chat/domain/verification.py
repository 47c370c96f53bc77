"""The sentences of a growing text with their markers, and the sentences of passages that they may cite."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

from wireroom_chat.domain.markers import MARKER
from wireroom_chat.domain.passages import Passage, Quote
from wireroom_chat.domain.sentences import is_false_stop, trimmed

_MAX_BUFFER = 8000
_STOPS = ".!?…\u061f\u06d4\u0964\u0965"
# No white space stands behind these.
_WIDE_STOPS = "。\uff01\uff1f\uff61"
# Of runs only the beginning is tried: what a model writes may be a hundred thousand blanks.
_BOUNDARY = re.compile(
    rf"""(?:(?<![{_STOPS}])([{_STOPS}]++)(?:[\u00a0\u202f\x20]?»|["'”“\u2019\u2018\u203a)])*+(?:\s*{MARKER})*\s+
    |(?<![{_WIDE_STOPS}])[{_WIDE_STOPS}]++[」』”\u2019\uff09]*+(?:\s*{MARKER})*\s*(?=[^」』”\u2019\uff09{_WIDE_STOPS}])
    |(?<![ \t\n])[ \t]*+\n\s*+)(?=[^\s\[\u3010»])""",
    re.IGNORECASE | re.VERBOSE,
)
# "am 3. M": whether a date goes on is known when the word is there.
_ORDINAL = re.compile(r"(?<!\d)\d{1,2}$")
_OPEN_WORD = re.compile(r"\.\s++\w*+$")


class SentenceBuffer:
    """Cuts a growing text into sentences with the markers that follow them; nothing is lost or changed."""

    def __init__(self) -> None:
        self._text = ""

    def feed(self, text: str) -> list[str]:
        """The sentences that are complete now."""
        self._text += text
        result: list[str] = []
        start = 0
        for match in _BOUNDARY.finditer(self._text):
            if match.group(1) == "." and self._is_open(match.start()):
                break
            if match.group(1) and is_false_stop(self._text, match.start(), match.end()):
                continue
            result.append(self._text[start : match.end()])
            start = match.end()
        self._text = self._text[start:]
        if len(self._text) > _MAX_BUFFER:
            result.append(self._text)
            self._text = ""
        return result

    def _is_open(self, at: int) -> bool:
        """Whether the full stop at `at` may belong to a date whose next word is still growing."""
        return bool(_ORDINAL.search(self._text[max(0, at - 3) : at])) and bool(_OPEN_WORD.match(self._text, at))

    def rest(self) -> list[str]:
        """What is left at the end."""
        rest, self._text = self._text, ""
        return [rest] if rest else []


def evidence_quotes(passages: Sequence[Passage], limit: int) -> dict[int, list[Quote]]:
    """For each passage by number (from 1) its sentences, and pairs of neighbouring ones as far as `limit` allows.

    Passages come in order until their sentences pass `limit`; the rest is left out. Then pairs are added, best passages first.
    """
    spans: dict[int, list[tuple[int, int]]] = {}
    count = 0
    for number, passage in enumerate(passages, start=1):
        found = trimmed(passage.text)[:limit]
        if count + len(found) > limit:
            break
        count += len(found)
        spans[number] = found
    result = {number: [Quote(passages[number - 1], start, end) for start, end in found] for number, found in spans.items()}
    for number, found in spans.items():
        pairs = [Quote(passages[number - 1], first[0], second[1]) for first, second in pairwise(found)][: limit - count]
        count += len(pairs)
        result[number] += pairs
    return result
