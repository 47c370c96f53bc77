"""A local server that embeds and reranks by script: vectors of word counts, so that texts with the same words are close."""

from __future__ import annotations

import asyncio
import hashlib
from types import TracebackType
from typing import Any, Self

import numpy as np
from aiohttp import web

from wireroom_rag.domain.lexicon import Lexicon


class ScriptedModels:
    """`status` other than 200 answers everything with it; `allowed` calls go through before the rest waits for `open`."""

    def __init__(self, dimension: int = 768) -> None:
        self.dimension = dimension
        self.status = 200
        self.allowed = -1
        self.open = asyncio.Event()
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str] = []
        self.answer: Any = None
        self._runner: web.AppRunner | None = None
        self._port = 0

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self._port}/v1"

    def embedding_endpoint(self, **members: Any) -> dict[str, Any]:
        """As an entry of the setting."""
        return {"model": "wide", "base_url": self.base_url, "dimensions": self.dimension, "api_key": "k", "retries": 0, **members}

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_post("/v1/embeddings", self._embeddings)
        app.router.add_post("/v1/rerank", self._rerank)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self._port = self._runner.addresses[0][1]
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.open.set()
        if self._runner is not None:
            await self._runner.cleanup()

    def _vector(self, text: str) -> list[float]:
        vector = np.full(self.dimension, 1e-3)
        for term, count in Lexicon().terms(text).items():
            vector[int.from_bytes(hashlib.sha256(term.encode()).digest()[:4]) % self.dimension] += count
        return [float(value) for value in vector]

    async def _taken(self, request: web.Request) -> dict[str, Any]:
        body: dict[str, Any] = await request.json()
        if self.allowed == 0:
            await self.open.wait()
        elif self.allowed > 0:
            self.allowed -= 1
        self.requests.append(body)
        self.keys.append(request.headers.get("Authorization", ""))
        return body

    async def _embeddings(self, request: web.Request) -> web.Response:
        body = await self._taken(request)
        if self.status != 200 or self.answer is not None:
            return web.json_response(self.answer, status=self.status)
        data = [{"index": place, "embedding": self._vector(text)} for place, text in enumerate(body["input"])]
        # In any order: the index says which is which.
        return web.json_response({"object": "list", "data": data[::-1], "model": body["model"]})

    async def _rerank(self, request: web.Request) -> web.Response:
        """Longer documents are better."""
        body = await self._taken(request)
        if self.status != 200:
            return web.json_response({}, status=self.status)
        results = [{"index": place, "relevance_score": len(text) / 1000} for place, text in enumerate(body["documents"])]
        return web.json_response({"results": results})
