"""Build a tenant's index anew, look how far that is, stop it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from wireroom_common.errors import invalid
from wireroom_rag.domain.generation import Generation, GenerationStatus
from wireroom_rag.domain.scope import Scope
from wireroom_rag.ports.generations import GenerationControl, Models


@dataclass(frozen=True)
class IndexStatus:
    """The newest generations, and the models that one can be built with."""

    generations: Sequence[GenerationStatus]
    models: Sequence[str]
    default_model: str


class Reindex:
    """For those who manage all collections of the tenant; `wake` tells the builder."""

    def __init__(self, generations: GenerationControl, models: Models, wake: Callable[[], None]) -> None:
        self._generations = generations
        self._models = models
        self._wake = wake

    async def start(self, scope: Scope, model: str) -> Generation:
        """Begin; empty `model` for the default. INVALID for a model that is not set up, CONFLICT while a build is going on."""
        blueprint = self._models.blueprints.get(model) if model else self._models.default
        if blueprint is None:
            known = ", ".join(sorted(self._models.blueprints))
            raise invalid("embedding_model_unknown", f"That embedding model is not set up; there are: {known}.", field="model")
        generation = await self._generations.start(scope, blueprint)
        self._wake()
        return generation

    async def abort(self, scope: Scope) -> Generation:
        """Stop; what serves goes on serving. CONFLICT when nothing is being built."""
        generation = await self._generations.abort(scope)
        self._wake()
        return generation

    async def status(self, scope: Scope) -> IndexStatus:
        """What there is."""
        return IndexStatus(await self._generations.statuses(scope), sorted(self._models.blueprints), self._models.default.model)
