"""BM25 over two fields (BM25F: Robertson, Zaragoza, Taylor 2004) of many chunks at once."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wireroom_rag.domain.lexicon import K1, TITLE_B, TITLE_WEIGHT, B, query_weight

Ids = NDArray[np.int64]
Floats = NDArray[np.float64]
# Whole numbers of any width.
Counts = NDArray[Any]

# Chunks are looked up in a table of positions while their ids lie within so many of each other, in a sorted list otherwise.
_WIDEST_TABLE = 8_000_000


@dataclass(frozen=True)
class Totals:
    """Of all chunks that word frequencies are counted in."""

    chunks: int
    terms: int
    title_terms: int


@dataclass(frozen=True)
class Postings:
    """Where one stem stands: chunks without repeats, how often in the text of each, and how often in its titles."""

    ids: Ids
    counts: Counts
    title_counts: Counts


@dataclass(frozen=True)
class Population:
    """The chunks that are scored, by ascending id, with the numbers of terms in text and titles."""

    ids: Ids
    terms: Counts
    title_terms: Counts


@dataclass(frozen=True)
class Scored:
    """Scores of a population: the whole, and the part of it that titles made."""

    ids: Ids
    scores: Floats
    title_scores: Floats

    def best(self, count: int) -> list[tuple[int, float]]:
        """Chunk id and score of those that score at all, best first, ties by id; up to `count`."""
        return self.at(self.best_places(count))

    def at(self, places: NDArray[np.intp]) -> list[tuple[int, float]]:
        """Chunk id and score in these places of the population."""
        return list(zip(self.ids[places].tolist(), self.scores[places].tolist(), strict=True))

    def best_places(self, count: int) -> NDArray[np.intp]:
        """Places of those that `best` gives. Takes a tenth of a second and more for millions: call it in a thread."""
        places = np.flatnonzero(self.scores > 0)
        if len(places) > count:
            values = self.scores[places]
            # All that tie with the last one stay in, so that ids decide between them.
            least = np.partition(values, len(values) - count)[len(values) - count]
            places = places[values >= least]
        return places[np.lexsort((self.ids[places], -self.scores[places]))[:count]]

    def title_score(self, chunk_id: int) -> float:
        """What titles made of the score of a chunk of the population."""
        return float(self.title_scores[np.searchsorted(self.ids, chunk_id)])


def scored(population: Population, totals: Totals, query: Iterable[tuple[int, Postings]]) -> Scored:
    """Score the population by (how often the query has the stem, where it stands); `totals` and postings are those of all chunks."""
    size = len(population.ids)
    result = Scored(population.ids, np.zeros(size), np.zeros(size))
    if not size or not totals.chunks:
        return result
    lengths = _lengths(population.terms, totals.terms / totals.chunks, B)
    title_lengths = _lengths(population.title_terms, totals.title_terms / totals.chunks, TITLE_B)
    places_of = _Places(population.ids)
    for weight, postings in query:
        found = len(postings.ids)
        rarity = math.log(1 + (max(totals.chunks - found, 0) + 0.5) / (found + 0.5))
        places = places_of.of(postings.ids)
        inside = np.flatnonzero(places >= 0)
        if len(inside) == found:
            counts, title_counts = postings.counts, postings.title_counts
        else:
            places, counts, title_counts = places[inside], postings.counts[inside], postings.title_counts[inside]
        counted = counts / lengths[places]
        titled = np.flatnonzero(title_counts)
        in_titles = TITLE_WEIGHT * title_counts[titled] / title_lengths[places[titled]]
        counted[titled] += in_titles
        factor = query_weight(weight) * rarity * (K1 + 1) / (counted + K1)
        result.scores[places] += factor * counted
        result.title_scores[places[titled]] += factor[titled] * in_titles
    return result


def _lengths(terms: Counts, mean: float, b: float) -> Floats:
    """By what the counts of each chunk are divided; a field that is empty everywhere counts for nothing."""
    return 1 - b + b * terms / mean if mean else np.full(len(terms), np.inf)


class _Places:
    """Positions of chunks in a sorted list of ids; -1 for those that are not in it."""

    def __init__(self, ids: Ids) -> None:
        self._ids = ids
        self._base = int(ids[0]) - 1
        span = int(ids[-1]) - self._base
        self._table: NDArray[np.int32] | None = None
        if span <= _WIDEST_TABLE:
            # The first and the last entry stand for all ids outside.
            self._table = np.full(span + 2, -1, dtype=np.int32)
            self._table[ids - self._base] = np.arange(len(ids), dtype=np.int32)

    def of(self, ids: Ids) -> NDArray[Any]:
        if self._table is not None:
            return np.take(self._table, ids - self._base, mode="clip")
        places = np.searchsorted(self._ids, ids)
        return np.where(self._ids[np.minimum(places, len(self._ids) - 1)] == ids, places, -1)
