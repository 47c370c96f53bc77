"""The installation's own embedding model, as one that clients may use."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import grpc.aio

from wireroom_common.errors import invalid
from wireroom_protos.rag.v1 import embedding_pb2, embedding_pb2_grpc

NAME = "minilm-l6-v2"
DIMENSIONS = 384
# Texts in one call: each takes milliseconds, and a call has a deadline.
_AT_A_TIME = 32


class RagEmbeddings:
    """Calls the rag service in the caller's name; `timeout` in seconds for each group of texts. Errors pass through."""

    def __init__(self, channel: grpc.aio.Channel, *, timeout: float) -> None:
        self._stub = embedding_pb2_grpc.EmbeddingServiceStub(channel)
        self._timeout = timeout

    async def embed(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """INVALID for texts that the model does not take, and for other `dimensions` than its own."""
        if body.get("dimensions") not in (None, DIMENSIONS):
            raise invalid("dimensions_fixed", f"'{NAME}' makes vectors of {DIMENSIONS} dimensions only.", field="dimensions")
        texts = body["input"]
        vectors: list[embedding_pb2.TextVector] = []
        for start in range(0, len(texts), _AT_A_TIME):
            request = embedding_pb2.EmbedTextsRequest(texts=texts[start : start + _AT_A_TIME])
            vectors += (await self._stub.EmbedTexts(request, timeout=self._timeout)).vectors
        tokens = sum(vector.tokens for vector in vectors)
        return {
            "object": "list",
            "data": [
                {"index": index, "embedding": base64.b64encode(vector.values).decode()} for index, vector in enumerate(vectors)
            ],
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        }
