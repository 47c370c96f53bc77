"""Embeddings from an OpenAI-compatible endpoint."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from wireroom_rag.domain.passage import Vectors
from wireroom_rag.embedding.http import ModelHttp


class EndpointEmbeddings:
    """Implements `Embeddings`. `asks_dimensions`: the request names them (models that can be shortened); else they are only checked."""

    def __init__(self, http: ModelHttp, *, model: str, dimension: int, batch: int, asks_dimensions: bool) -> None:
        self._http = http
        self._model = model
        self._dimension = dimension
        self._batch = batch
        self._asks_dimensions = asks_dimensions

    async def passages(self, texts: Sequence[str]) -> Vectors:
        """Unit vectors [len(texts), dimension], a call for each batch."""
        vectors = np.empty((len(texts), self._dimension), dtype=np.float32)
        for first in range(0, len(texts), self._batch):
            batch = list(texts[first : first + self._batch])
            vectors[first : first + len(batch)] = await self._embed(batch)
        return vectors

    async def query(self, windows: Sequence[str]) -> Vectors:
        """One unit vector [dimension]: the mean of the windows'."""
        mean = (await self.passages(windows)).mean(axis=0)
        return np.asarray(mean / max(float(np.linalg.norm(mean)), 1e-9), dtype=np.float32)

    async def _embed(self, texts: list[str]) -> Vectors:
        body: dict[str, Any] = {"model": self._model, "input": texts, "encoding_format": "float"}
        if self._asks_dimensions:
            body["dimensions"] = self._dimension
        answer = await self._http.post("embeddings", body)
        try:
            found = {int(entry["index"]): entry["embedding"] for entry in answer["data"]}
            vectors = np.array([found[place] for place in range(len(texts))], dtype=np.float32)
        except (KeyError, TypeError, ValueError):
            raise self._http.wrong() from None
        if vectors.shape != (len(texts), self._dimension) or not np.isfinite(vectors).all():
            raise self._http.wrong()
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        if not (norms > 0).all():
            raise self._http.wrong()
        return np.asarray(vectors / norms, dtype=np.float32)
