"""Vectors of passages for the generations that they are written to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from uuid import UUID

import structlog

from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_rag.domain.generation import Generation, GenerationState
from wireroom_rag.domain.passage import Vectors
from wireroom_rag.ports.generations import LiveGenerations, Models

_log = structlog.get_logger(__name__)


async def embed_with(models: Models, tenant_id: UUID, generation: Generation, texts: Sequence[str]) -> Vectors:
    """Vectors by the model of the tenant's generation. UNAVAILABLE when that is not set up (any more), or does not answer."""
    embeddings = models.of(generation.blueprint, tenant_id)
    if embeddings is None:
        raise WireroomError(
            ErrorKind.UNAVAILABLE,
            "embedding_model_not_set_up",
            f"The embedding model '{generation.blueprint.model}' ({generation.blueprint.dimension} dimensions) is not set up.",
            retry_after=30,
        )
    return await embeddings.passages(texts)


class GenerationVectors:
    """Implements `TenantVectors`."""

    def __init__(self, generations: LiveGenerations, models: Models) -> None:
        self._generations = generations
        self._models = models

    async def of(self, tenant_id: UUID, texts: Sequence[str]) -> Mapping[int, Vectors]:
        """By generation number; those of the serving one are always among them.

        One that is being built is left out when its model does not answer: what is missing is built later, and nobody waits for it.
        """
        vectors: dict[int, Vectors] = {}
        for generation in await self._generations.live(tenant_id):
            try:
                vectors[generation.number] = await embed_with(self._models, tenant_id, generation, texts)
            except WireroomError as error:
                if generation.state is not GenerationState.BUILDING:
                    raise
                _log.warning("building_generation_skipped", generation=generation.number, error=error.code)
        return vectors
