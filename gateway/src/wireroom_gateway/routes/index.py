"""The index of a tenant: built anew while the one before goes on serving."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from fastapi import FastAPI
from pydantic import Field

from wireroom_gateway.access import access
from wireroom_gateway.routes.application import problem_responses
from wireroom_gateway.routes.fields import Input, Output, moment
from wireroom_gateway.services import Services
from wireroom_protos.rag.v1 import collections_pb2, generations_pb2

_STATES = {
    generations_pb2.GENERATION_STATE_BUILDING: "building",
    generations_pb2.GENERATION_STATE_SERVING: "serving",
    generations_pb2.GENERATION_STATE_RETIRED: "retired",
    generations_pb2.GENERATION_STATE_ABORTED: "aborted",
    generations_pb2.GENERATION_STATE_DROPPED: "dropped",
}


class ReindexInput(Input):
    """`model`: one of those that `GET /api/v1/index` names; empty for the installation's default."""

    model: Annotated[str, Field(max_length=200, pattern=r"^[^\x00]*$")] = ""


class GenerationOutput(Output):
    """What one model and one way of cutting texts made of the tenant's documents and articles.

    `state`: building, serving, retired, aborted or dropped. `documents` stand in it, of `documents_total` that are served.
    """

    number: int
    model: str
    dimension: int
    chunker: str
    state: str
    documents: int
    documents_total: int
    chunks: int
    error: str
    started_at: datetime | None
    switched_at: datetime | None
    ended_at: datetime | None


class StartedOutput(Output):
    """The generation that is built, or no longer built."""

    number: int
    model: str
    dimension: int
    chunker: str
    state: str


class IndexOutput(Output):
    """The newest 20 generations, newest first, and the models that one can be built with."""

    generations: list[GenerationOutput]
    models: list[str]
    default_model: str


def add_index_routes(api: FastAPI, services: Services, *, timeout: float) -> None:
    """`/api/v1/index`; and the name that a collection's page has for the same."""
    stub = services.indexes

    @api.get("/api/v1/index", tags=["retrieval"])
    @access("collections:manage")
    async def get_index() -> IndexOutput:
        found = await stub.GetIndex(generations_pb2.GetIndexRequest(), timeout=timeout)
        return IndexOutput(
            generations=[_generation(entry) for entry in found.generations],
            models=list(found.models),
            default_model=found.default_model,
        )

    @api.post("/api/v1/index/reindex", status_code=202, tags=["retrieval"], responses=problem_responses(409, 415))
    @access("collections:manage")
    async def start_reindex(body: ReindexInput) -> StartedOutput:
        answer = await stub.StartReindex(generations_pb2.StartReindexRequest(model=body.model), timeout=timeout)
        return _started(answer.generation)

    @api.delete("/api/v1/index/reindex", tags=["retrieval"], responses=problem_responses(409))
    @access("collections:manage")
    async def abort_reindex() -> StartedOutput:
        return _started((await stub.AbortReindex(generations_pb2.AbortReindexRequest(), timeout=timeout)).generation)

    @api.post(
        "/api/v1/collections/{id}/reindex",
        status_code=202,
        tags=["documents"],
        description="A tenant has one index for all of its collections: this builds it anew.",
        responses=problem_responses(404, 409, 415),
    )
    @access("collections:manage")
    async def reindex_collection(id: str, body: ReindexInput) -> StartedOutput:  # noqa: A002 - the path's name for it
        await services.collections.GetCollection(collections_pb2.GetCollectionRequest(id=id), timeout=timeout)
        answer = await stub.StartReindex(generations_pb2.StartReindexRequest(model=body.model), timeout=timeout)
        return _started(answer.generation)


def _started(found: generations_pb2.Generation) -> StartedOutput:
    return StartedOutput(
        number=found.number,
        model=found.model,
        dimension=found.dimension,
        chunker=found.chunker,
        state=_STATES.get(found.state, "unknown"),
    )


def _generation(found: generations_pb2.Generation) -> GenerationOutput:
    return GenerationOutput(
        number=found.number,
        model=found.model,
        dimension=found.dimension,
        chunker=found.chunker,
        state=_STATES.get(found.state, "unknown"),
        documents=found.documents,
        documents_total=found.documents_total,
        chunks=found.chunks,
        error=found.error,
        started_at=moment(found, "started_at"),
        switched_at=moment(found, "switched_at"),
        ended_at=moment(found, "ended_at"),
    )
