"""Fusion of the two legs, and what a query's words weigh."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wireroom_rag.domain.fusion import FIRST_PLACE, RRF_K, fuse
from wireroom_rag.domain.lexicon import query_weight

ids = st.integers(1, 40)
leg = st.dictionaries(ids, st.floats(0.01, 40, allow_nan=False), max_size=30).map(lambda found: list(found.items()))


def test_the_places_in_both_legs_add_up() -> None:
    found = fuse([(7, 0.9), (3, 0.8), (5, 0.1)], [(3, 12.0), (9, 4.0)], limit=10)
    assert [(item.id, item.dense_rank, item.lexical_rank) for item in found] == [(3, 2, 1), (7, 1, 0), (9, 0, 2), (5, 3, 0)]
    assert found[0].score == pytest.approx(1 / 62 + 1 / 61)
    assert found[1].score == pytest.approx(FIRST_PLACE)


def test_a_passage_without_a_word_of_the_query_is_not_found_by_words() -> None:
    assert [(item.id, item.lexical_rank) for item in fuse([(1, -0.2)], [(2, 0.0)], limit=5)] == [(1, 0)]
    assert fuse([], [], limit=5) == []
    assert fuse([(1, 0.5)], [(1, 0.5)], limit=0) == []


@settings(max_examples=60, deadline=None)
@given(dense=leg, lexical=leg, limit=st.integers(0, 50))
def test_order_bounds_and_ranks(dense: list[tuple[int, float]], lexical: list[tuple[int, float]], limit: int) -> None:
    everything = fuse(dense, lexical, limit=100)
    assert fuse(dense, lexical, limit=limit) == everything[:limit]
    assert {item.id for item in everything} == {id_ for id_, _ in dense} | {id_ for id_, _ in lexical}
    assert [(-item.score, item.id) for item in everything] == sorted((-item.score, item.id) for item in everything)
    assert all(0 < item.score <= 2 * FIRST_PLACE for item in everything)
    assert sorted(item.dense_rank for item in everything if item.dense_rank) == list(range(1, len(dense) + 1))
    assert sorted(item.lexical_rank for item in everything if item.lexical_rank) == list(range(1, len(lexical) + 1))
    # The order in which a leg is given says nothing, nor does the scale of its scores.
    assert fuse(dense[::-1], [(id_, 3 * score) for id_, score in lexical], limit=100) == everything


@settings(max_examples=60, deadline=None)
@given(dense=leg, lexical=leg)
def test_better_in_both_legs_is_better(dense: list[tuple[int, float]], lexical: list[tuple[int, float]]) -> None:
    found = fuse(dense, lexical, limit=100)
    last = RRF_K * 1000
    for place, better in enumerate(found):
        for worse in found[place + 1 :]:
            assert not (
                (worse.dense_rank or last) < (better.dense_rank or last)
                and (worse.lexical_rank or last) < (better.lexical_rank or last)
            )


def test_a_word_that_a_query_repeats_counts_more_but_ever_less() -> None:
    weights = [query_weight(count) for count in range(1, 200)]
    assert weights[0] == 1
    gains = [after - before for before, after in itertools.pairwise(weights)]
    assert all(gain > 0 for gain in gains)
    assert all(after < before for before, after in itertools.pairwise(gains))
    assert weights[-1] < 9
