"""Passages of several kinds of sources in one order."""

from __future__ import annotations

from collections.abc import Sequence

from wireroom_chat.domain.passages import Passage

# The constant of reciprocal rank fusion (Cormack, Clarke, Buettcher 2009), as in the index itself.
_RRF_K = 60


def fused(found: Sequence[Sequence[Passage]], top_k: int) -> list[Passage]:
    """The best `top_k`, best first; each of `found` is one kind's list in the order of the index, which is kept.

    Which list gives the next passage is decided by reciprocal rank fusion over all of them together: by closeness in meaning and by words,
    whose scores mean the same in every kind (one model, one set of statistics). Where that says nothing, the earlier list goes first.
    """
    lists = [list(passages) for passages in found if passages]
    if len(lists) == 1:
        return lists[0][:top_k]
    everything = [passage for passages in lists for passage in passages]
    dense = _ranks([passage.dense_score for passage in everything])
    lexical = _ranks([passage.lexical_score for passage in everything])
    merged: list[Passage] = []
    while len(merged) < top_k and any(lists):
        heads = [passages for passages in lists if passages]
        best = max(heads, key=lambda passages: _score(passages[0], dense, lexical))
        merged.append(best.pop(0))
    return merged


def _ranks(scores: Sequence[float]) -> dict[float, int]:
    """Equal scores share a rank; a passage that was not found this way (0) has none."""
    return {score: rank for rank, score in enumerate(sorted({score for score in scores if score > 0}, reverse=True), start=1)}


def _score(passage: Passage, dense: dict[float, int], lexical: dict[float, int]) -> float:
    return sum(
        1.0 / (_RRF_K + ranks[score])
        for ranks, score in ((dense, passage.dense_score), (lexical, passage.lexical_score))
        if score in ranks
    )
