"""The models that this installation can embed with, by their ids."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from uuid import UUID

from wireroom_rag.domain.generation import Blueprint
from wireroom_rag.ports.processing import Embeddings

# A model's embeddings as a tenant uses them: with whatever stands in front, such as vectors that were kept.
Wrap = Callable[[UUID, Blueprint, Embeddings], Embeddings]


class EmbeddingModels:
    """Implements `Models`: by id what each makes a generation with, and its embeddings."""

    def __init__(self, models: Mapping[str, tuple[Blueprint, Embeddings]], *, default: str, wrap: Wrap) -> None:
        if default not in models:
            msg = f"There is no embedding model '{default}'; there are {', '.join(sorted(models))}."
            raise ValueError(msg)
        self._embeddings = {model: embeddings for model, (_, embeddings) in models.items()}
        self._blueprints = {model: blueprint for model, (blueprint, _) in models.items()}
        self._default = default
        self._wrap = wrap

    @property
    def default(self) -> Blueprint:
        """What new tenants begin with, and what is built unless somebody asks for another."""
        return self._blueprints[self._default]

    @property
    def blueprints(self) -> Mapping[str, Blueprint]:
        """By model id."""
        return MappingProxyType(self._blueprints)

    def of(self, blueprint: Blueprint, tenant_id: UUID) -> Embeddings | None:
        """The model's embeddings as the tenant uses them; None when it is no longer set up, or with other dimensions."""
        known = self._blueprints.get(blueprint.model)
        if known is None or known.dimension != blueprint.dimension:
            return None
        return self._wrap(tenant_id, blueprint, self._embeddings[blueprint.model])
