"""Which model names exist and what answers under them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from wireroom_chat.domain.passages import SourceKind
from wireroom_chat.domain.request import Grounding
from wireroom_common.errors import ErrorKind, WireroomError

BUILT_IN_PROVIDER = "wireroom"
EXTRACTIVE = "extractive"
_BUILT_IN: dict[str, tuple[SourceKind, ...]] = {
    EXTRACTIVE: (),
    "grounded": (),
    "news": (SourceKind.ARTICLE,),
    "docs": (SourceKind.DOCUMENT,),
}


@dataclass(frozen=True)
class ProviderModel:
    """A model of a provider; `name` is the provider's own name for it."""

    provider: str
    name: str

    @property
    def id(self) -> str:
        """The name under which it is offered."""
        return f"{self.provider}/{self.name}"


@dataclass(frozen=True)
class Route:
    """How a request is answered: with quotes only (no `generator`), grounded, or forwarded (no `grounding`)."""

    generator: ProviderModel | None
    grounding: Grounding | None


@dataclass(frozen=True)
class ListedModel:
    """One entry of the model list."""

    id: str
    owned_by: str
    built_in: bool


class ModelCatalogue:
    """The built-in models and those of the providers. `default` names the generator of the built-in grounded models."""

    def __init__(self, provider_models: Sequence[ProviderModel], default: str = "") -> None:
        self._provider_models = tuple(provider_models)
        self._by_name = {model.id: model for model in provider_models}
        bare = Counter(model.name for model in provider_models)
        for model in provider_models:
            if bare[model.name] == 1 and model.name not in _BUILT_IN:
                self._by_name.setdefault(model.name, model)
        if default and default not in self._by_name:
            msg = f"The default model '{default}' is not offered by any configured provider."
            raise ValueError(msg)
        self._default = self._by_name[default] if default else next(iter(provider_models), None)

    def route(self, name: str, grounding: Grounding | None) -> Route:
        """How `name` answers; NOT_FOUND `model_not_found` when there is no such model."""
        if name in _BUILT_IN:
            wanted = grounding or Grounding()
            kinds = _BUILT_IN[name]
            if kinds:
                wanted = Grounding(kinds, wanted.since, wanted.top_k, wanted.mode)
            return Route(None if name == EXTRACTIVE else self._default, wanted)
        model = self._by_name.get(name)
        if model is None:
            raise WireroomError(
                ErrorKind.NOT_FOUND,
                "model_not_found",
                f"The model '{name[:100]}' does not exist; GET /v1/models lists those that do.",
            )
        return Route(model, grounding)

    def listed(self) -> list[ListedModel]:
        """All models, the built-in ones first."""
        return [ListedModel(name, BUILT_IN_PROVIDER, built_in=True) for name in _BUILT_IN] + [
            ListedModel(model.id, model.provider, built_in=False) for model in self._provider_models
        ]
