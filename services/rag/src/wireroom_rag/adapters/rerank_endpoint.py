"""Scores from a `/rerank` endpoint, as Cohere, Jina and the common inference servers have it."""

from __future__ import annotations

import math
from collections.abc import Sequence

from wireroom_rag.embedding.http import ModelHttp


class EndpointReranker:
    """Implements `Reranker`."""

    def __init__(self, http: ModelHttp, *, model: str) -> None:
        self._http = http
        self._model = model

    async def scores(self, query: str, passages: Sequence[str]) -> Sequence[float]:
        """One score for each passage, higher is better. WireroomError UNAVAILABLE when the endpoint does not answer, or wrongly."""
        body = {"model": self._model, "query": query, "documents": list(passages), "top_n": len(passages)}
        answer = await self._http.post("rerank", body)
        try:
            found = {int(entry["index"]): float(entry["relevance_score"]) for entry in answer["results"]}
            scores = [found[place] for place in range(len(passages))]
        except (KeyError, TypeError, ValueError):
            raise self._http.wrong() from None
        if not all(math.isfinite(score) for score in scores):
            raise self._http.wrong()
        return scores
