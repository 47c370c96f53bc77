"""`IndexService`."""

from __future__ import annotations

from typing import Any

from wireroom_common.principal import current_principal
from wireroom_protos.rag.v1 import generations_pb2, generations_pb2_grpc
from wireroom_rag.domain.generation import Generation, GenerationState, GenerationStatus
from wireroom_rag.domain.scope import Scope
from wireroom_rag.transport.scopes import MANAGE_ALL, collection_scope
from wireroom_rag.usecases.reindex import Reindex

_STATES = {
    GenerationState.BUILDING: generations_pb2.GENERATION_STATE_BUILDING,
    GenerationState.SERVING: generations_pb2.GENERATION_STATE_SERVING,
    GenerationState.RETIRED: generations_pb2.GENERATION_STATE_RETIRED,
    GenerationState.ABORTED: generations_pb2.GENERATION_STATE_ABORTED,
    GenerationState.DROPPED: generations_pb2.GENERATION_STATE_DROPPED,
}


class IndexServicer(generations_pb2_grpc.IndexServiceServicer):
    """Maps messages to the use case."""

    def __init__(self, reindex: Reindex) -> None:
        self._reindex = reindex

    async def StartReindex(  # noqa: N802 - the rpc's signature
        self,
        request: generations_pb2.StartReindexRequest,
        context: Any,  # noqa: ARG002 - the rpc's signature
    ) -> generations_pb2.StartReindexResponse:
        generation = await self._reindex.start(_managing(), request.model)
        return generations_pb2.StartReindexResponse(generation=_generation(generation))

    async def GetIndex(  # noqa: N802 - the rpc's signature
        self,
        request: generations_pb2.GetIndexRequest,  # noqa: ARG002 - the rpc's signature
        context: Any,  # noqa: ARG002 - the rpc's signature
    ) -> generations_pb2.GetIndexResponse:
        found = await self._reindex.status(_managing())
        return generations_pb2.GetIndexResponse(
            generations=[_status(status) for status in found.generations],
            models=found.models,
            default_model=found.default_model,
        )

    async def AbortReindex(  # noqa: N802 - the rpc's signature
        self,
        request: generations_pb2.AbortReindexRequest,  # noqa: ARG002 - the rpc's signature
        context: Any,  # noqa: ARG002 - the rpc's signature
    ) -> generations_pb2.AbortReindexResponse:
        return generations_pb2.AbortReindexResponse(generation=_generation(await self._reindex.abort(_managing())))


def _managing() -> Scope:
    current_principal().require(MANAGE_ALL)
    return collection_scope(change=True)


def _generation(generation: Generation) -> generations_pb2.Generation:
    return generations_pb2.Generation(
        number=generation.number,
        model=generation.blueprint.model,
        dimension=generation.blueprint.dimension,
        chunker=generation.blueprint.chunker,
        state=_STATES[generation.state],
    )


def _status(status: GenerationStatus) -> generations_pb2.Generation:
    message = _generation(status.generation)
    message.documents = status.documents
    message.documents_total = status.documents_total
    message.chunks = status.chunks
    message.error = status.error
    message.started_at.FromDatetime(status.started_at)
    if status.switched_at is not None:
        message.switched_at.FromDatetime(status.switched_at)
    if status.ended_at is not None:
        message.ended_at.FromDatetime(status.ended_at)
    return message
