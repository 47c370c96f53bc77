"""Vectors of questions by the installation's own model, which the rag service holds."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import grpc.aio

from wireroom_protos.rag.v1 import embedding_pb2, embedding_pb2_grpc


class RagVectors:
    """Calls `EmbeddingService`; errors of the calls pass through as WireroomErrors."""

    def __init__(self, channel: grpc.aio.Channel, *, timeout: float) -> None:
        self._stub = embedding_pb2_grpc.EmbeddingServiceStub(channel)
        self._timeout = timeout

    async def vectors(self, texts: Sequence[str]) -> list[tuple[Sequence[float], int]]:
        """Unit vector and tokens of each text, in order."""
        response = await self._stub.EmbedTexts(embedding_pb2.EmbedTextsRequest(texts=texts), timeout=self._timeout)
        return [(struct.unpack(f"<{len(item.values) // 4}f", item.values), item.tokens) for item in response.vectors]

    async def vector(self, content: str) -> Sequence[float]:
        """Of one text."""
        return (await self.vectors([content]))[0][0]
