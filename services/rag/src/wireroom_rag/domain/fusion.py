"""Reciprocal rank fusion (Cormack, Clarke, Buettcher 2009) of what was found by meaning and what was found by words.

It looks at places only, so that it holds for every embedding model, however its cosines are spread; convex combinations of scores need a
weight and bounds for each model. What a passage found by one leg alone would score in the other changes nothing (`docs/benchmarks.md`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

RRF_K = 60
# What the first place in one leg is worth; in both, twice as much, which is the highest score there is.
FIRST_PLACE = 1 / (RRF_K + 1)


@dataclass(frozen=True, slots=True)
class Fused:
    """`score`: above 0, at most `2 * FIRST_PLACE`. Ranks begin with 1; 0 where a leg has not found it."""

    id: int
    score: float
    dense_rank: int
    lexical_rank: int


def fuse(dense: Sequence[tuple[int, float]], lexical: Sequence[tuple[int, float]], *, limit: int) -> list[Fused]:
    """The `limit` best of both legs, best first, ties by id.

    Each leg: ids, none twice, with its scores, higher is better, in any order. What scores 0 or less in the lexical leg shares no word
    with the query: it was not found there. In the dense leg every cosine counts.
    """
    by_meaning = _ranks(dense)
    by_words = _ranks([found for found in lexical if found[1] > 0])
    fused = [
        Fused(id_, _share(by_meaning.get(id_, 0)) + _share(by_words.get(id_, 0)), by_meaning.get(id_, 0), by_words.get(id_, 0))
        for id_ in by_meaning.keys() | by_words.keys()
    ]
    return sorted(fused, key=lambda found: (-found.score, found.id))[: max(0, limit)]


def _ranks(found: Sequence[tuple[int, float]]) -> dict[int, int]:
    placed = sorted(found, key=lambda item: (-item[1], item[0]))
    return {id_: rank for rank, (id_, _) in enumerate(placed, start=1)}


def _share(rank: int) -> float:
    return 1 / (RRF_K + rank) if rank else 0.0
