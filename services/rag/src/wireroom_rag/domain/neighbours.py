"""Passages with what stands around them, those that overlap joined."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from wireroom_rag.domain.passage import FoundPassage, Widened


def with_neighbours(passages: Sequence[FoundPassage], widened: Mapping[int, Widened]) -> list[FoundPassage]:
    """The passages in their order, each as wide as `widened` says; one that overlaps a better one of its page becomes part of it."""
    joined: list[FoundPassage] = []
    for passage in passages:
        wide = widened.get(passage.id)
        wider = passage if wide is None else replace(passage, start=wide.start, end=wide.end, text=wide.text)
        place = next((place for place, better in enumerate(joined) if _overlap(better, wider)), None)
        if place is None:
            joined.append(wider)
        else:
            joined[place] = _union(joined[place], wider)
    return joined


def _overlap(one: FoundPassage, other: FoundPassage) -> bool:
    same = (one.document_id, one.version, one.page) == (other.document_id, other.version, other.page)
    return same and one.start < other.end and other.start < one.end


def _union(better: FoundPassage, other: FoundPassage) -> FoundPassage:
    first, second = (better, other) if better.start <= other.start else (other, better)
    text = first.text + second.text[first.end - second.start :] if second.end > first.end else first.text
    return replace(better, start=first.start, end=max(first.end, second.end), text=text)
