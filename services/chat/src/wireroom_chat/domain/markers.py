"""The markers of a sentence, such as "[2]" or "[1, 3]": where they stand, and the sentence with those that hold.

A marker in code, in an address or in front of a link's target cites nothing: it goes.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Collection
from dataclasses import dataclass, field
from operator import itemgetter

_NUMBERS = r"\d{1,3}(?:\s*[,;\u2013-]\s*\d{1,3})*"
MARKER = rf"[\[\u3010]\s*(?:\^|sources?\s*)?{_NUMBERS}\s*[\]\u3011]"
# Of a run of blanks only its beginning is tried: each place in it would cost the length of the rest.
_GROUP = re.compile(rf"((?<!\s)\s*+)({MARKER}(?:\s*{MARKER})*)", re.IGNORECASE)
_NUMBER = re.compile(r"(\d+)(?:\s*[\u2013-]\s*(\d+))?")
_FENCE = re.compile(r"^[ \t]*(?:```|~~~)", re.MULTILINE)
_TICKS = re.compile(r"`+")
_ADDRESS = re.compile(r"(?:[a-z][a-z0-9+.-]{0,20}://|www\.)\S*", re.IGNORECASE)
_MAX_RANGE = 20


class CodeFences:
    """Follows fenced code over the sentences of an answer."""

    def __init__(self) -> None:
        self._inside = False

    def next(self, sentence: str) -> bool:
        """Whether any of this sentence is code or its fence."""
        before = self._inside
        for _ in _FENCE.finditer(sentence):
            self._inside = not self._inside
        return before or self._inside or bool(_FENCE.search(sentence))


@dataclass(frozen=True)
class _Marker:
    start: int
    end: int
    space: bool
    numbers: tuple[int, ...]
    cites: bool


@dataclass(frozen=True)
class Marked:
    """A sentence without the white space behind it, and its markers. `code`: it belongs to a code block."""

    text: str
    code: bool = False
    _markers: tuple[_Marker, ...] = field(init=False)

    def __post_init__(self) -> None:
        inline, addresses = _Spans(_code(self.text)), _Spans([match.span() for match in _ADDRESS.finditer(self.text)])
        markers = []
        for match in _GROUP.finditer(self.text):
            start, end = match.span(2)
            in_dead = inline.hold(start) or addresses.hold(start)
            # `items[1]` is an element, and stays.
            if (in_dead or self.code) and _is_element(self.text, start):
                continue
            before_target = self.text[end : end + 1] in ("(", ":")
            cites = not (in_dead or self.code or before_target)
            markers.append(_Marker(match.start(), end, bool(match.group(1)), tuple(_numbers(match.group(2))), cites))
        object.__setattr__(self, "_markers", tuple(markers))

    @property
    def claim(self) -> str:
        """The sentence without its markers."""
        return self.rendered(())

    @property
    def numbers(self) -> list[int]:
        """The passages that it cites, each once, in order."""
        return list(dict.fromkeys(number for marker in self._markers if marker.cites for number in marker.numbers))

    def rendered(self, kept: Collection[int]) -> str:
        """The sentence with the markers of `kept` alone."""
        parts, at = [], 0
        for marker in self._markers:
            parts.append(self.text[at : marker.start])
            numbers = [number for number in dict.fromkeys(marker.numbers) if number in kept] if marker.cites else []
            if numbers:
                parts.append((" " if marker.space else "") + "".join(f"[{number}]" for number in numbers))
            at = marker.end
        return "".join([*parts, self.text[at:]])


class _Spans:
    """Spans in order, without overlaps."""

    def __init__(self, spans: list[tuple[int, int]]) -> None:
        self._spans = spans

    def hold(self, offset: int) -> bool:
        """Whether one of them does."""
        at = bisect_right(self._spans, offset, key=itemgetter(0)) - 1
        return at >= 0 and offset < self._spans[at][1]


def _code(text: str) -> list[tuple[int, int]]:
    """Code spans: from a run of backticks to the next run of the same length."""
    runs = [match.span() for match in _TICKS.finditer(text)]
    following: dict[int, int] = {}
    closing: list[int | None] = [None] * len(runs)
    for at in range(len(runs) - 1, -1, -1):
        length = runs[at][1] - runs[at][0]
        closing[at] = following.get(length)
        following[length] = at
    found: list[tuple[int, int]] = []
    at = 0
    while at < len(runs):
        end = closing[at]
        if end is not None:
            found.append((runs[at][0], runs[end][1]))
        at = at + 1 if end is None else end + 1
    return found


def _is_element(text: str, start: int) -> bool:
    return start > 0 and (text[start - 1].isalnum() or text[start - 1] in "_)]")


def _numbers(marker: str) -> list[int]:
    found: list[int] = []
    for first, last in _NUMBER.findall(marker):
        low, high = int(first), int(last or first)
        found += range(low, min(high, low + _MAX_RANGE) + 1) if low <= high else (low, high)
    return found
