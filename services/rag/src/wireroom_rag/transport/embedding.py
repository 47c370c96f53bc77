"""`EmbeddingService`."""

from __future__ import annotations

from typing import Any

from wireroom_common.principal import current_principal
from wireroom_protos.rag.v1 import embedding_pb2, embedding_pb2_grpc
from wireroom_rag.usecases.embed import MODEL, EmbedTexts

_PERMISSIONS = ("docs:read", "news:read", "llm:invoke")


class EmbeddingServicer(embedding_pb2_grpc.EmbeddingServiceServicer):
    """Maps messages to the use case."""

    def __init__(self, embed: EmbedTexts) -> None:
        self._embed = embed

    async def EmbedTexts(  # noqa: N802 - the rpc's signature
        self,
        request: embedding_pb2.EmbedTextsRequest,
        context: Any,  # noqa: ARG002 - the rpc's signature
    ) -> embedding_pb2.EmbedTextsResponse:
        principal = current_principal()
        if not principal.permissions.intersection(_PERMISSIONS):
            principal.require(_PERMISSIONS[0])
        found = await self._embed(principal.tenant(), request.texts)
        return embedding_pb2.EmbedTextsResponse(
            vectors=[embedding_pb2.TextVector(values=vector.astype("<f4").tobytes(), tokens=tokens) for vector, tokens in found],
            model=MODEL,
        )
