"""Maximal marginal relevance (Carbonell, Goldstein 1998): passages that say the same as better ones give way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from wireroom_rag.domain.passage import FoundPassage


def diversified(passages: Sequence[FoundPassage], top_k: int, diversity: float) -> list[FoundPassage]:
    """`top_k` of the passages, best first, by `(1 - diversity) * relevance - diversity * likeness` to those chosen before.

    Relevance is the reranker's score, or the fused one without a reranker, from 0 for the lowest to 1 for the highest; likeness the
    cosine of the vectors, not below 0. Passages without vectors are like nothing. The penalty that decided is noted on each.
    """
    if not passages:
        return []
    reranked = any(passage.rerank_score for passage in passages)
    scores = np.array([passage.rerank_score if reranked else passage.score for passage in passages])
    spread = scores.max() - scores.min()
    relevance = (scores - scores.min()) / spread if spread > 0 else np.ones(len(passages))
    size = next((len(passage.vector) for passage in passages if passage.vector is not None), 1)
    vectors = np.vstack([np.zeros(size) if passage.vector is None else passage.vector for passage in passages])
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors = vectors / np.where(norms > 0, norms, 1)
    likeness = np.zeros(len(passages))
    left = list(range(len(passages)))
    chosen: list[FoundPassage] = []
    while left and len(chosen) < top_k:
        values = (1 - diversity) * relevance - diversity * likeness
        # The first of equals: the order before decides.
        best_left = max(left, key=lambda place: (values[place], -place))
        left.remove(best_left)
        chosen.append(replace(passages[best_left], mmr_penalty=float(diversity * likeness[best_left])))
        likeness = np.maximum(likeness, vectors @ vectors[best_left])
    return chosen
