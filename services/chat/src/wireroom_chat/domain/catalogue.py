"""Which model names exist and what answers under them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from uuid import UUID

from wireroom_chat.domain.assistants import ChosenAssistant
from wireroom_chat.domain.passages import SourceKind
from wireroom_chat.domain.providers import Alias, Candidate, ProviderModel, Strategy
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


BUILT_IN_NAMES = tuple(_BUILT_IN)


@dataclass(frozen=True)
class Route:
    """How a request is answered: with quotes only (no `candidates`), grounded, or forwarded (no `grounding`)."""

    candidates: tuple[Candidate, ...]
    strategy: Strategy
    grounding: Grounding | None
    # In whose name it is answered.
    assistant: ChosenAssistant | None = None


@dataclass(frozen=True)
class ListedModel:
    """One entry of the model list."""

    id: str
    owned_by: str
    built_in: bool
    # "chat" or "embedding"
    type: str = "chat"


class Catalogue:
    """The built-in models, those of the providers, and aliases. `default` names the generator of the built-in grounded models."""

    def __init__(self, candidates: Sequence[Candidate], aliases: Sequence[Alias] = (), default: str = "") -> None:
        by_id: dict[str, list[Candidate]] = {}
        for candidate in candidates:
            by_id.setdefault(candidate.model.id, []).append(candidate)
        self._models: list[ProviderModel] = [group[0].model for group in by_id.values()]
        # Several keys share the load.
        self._by_name: dict[str, Alias] = {
            name: Alias(name, tuple(group), Strategy.WEIGHTED if len(group) > 1 else Strategy.ORDERED)
            for name, group in by_id.items()
        }
        bare = Counter(model.name for model in self._models)
        for model in self._models:
            if bare[model.name] == 1 and model.name not in _BUILT_IN:
                self._by_name.setdefault(model.name, self._by_name[model.id])
        self._aliases = {alias.name: alias for alias in aliases}
        if default and default not in self._by_name and default not in self._aliases:
            msg = f"The default model '{default}' is not offered by any configured provider."
            raise ValueError(msg)
        self._default = default or next((model.id for model in self._models if "chat" in model.purposes), "")

    def route(self, name: str, grounding: Grounding | None, tenant_id: UUID | None = None) -> Route:
        """How `name` answers the tenant; NOT_FOUND `model_not_found` when there is no such model for it."""
        if name in _BUILT_IN:
            wanted = grounding or Grounding()
            kinds = _BUILT_IN[name]
            if kinds:
                wanted = replace(wanted, kinds=kinds)
            generator = self._find(self._default, tenant_id) if self._default and name != EXTRACTIVE else None
            return Route(generator.candidates if generator else (), generator.strategy if generator else Strategy.ORDERED, wanted)
        found = self._find(name, tenant_id)
        if found is None:
            raise _not_found(name)
        return Route(_for(found, "chat"), found.strategy, grounding)

    def embedding(self, name: str, tenant_id: UUID | None = None) -> Route:
        """Who embeds under `name`; NOT_FOUND `model_not_found`, or INVALID `model_unsuited` for a model that does not."""
        found = self._find(name, tenant_id)
        if found is None:
            raise _not_found(name)
        return Route(_for(found, "embeddings"), found.strategy, None)

    def models(self) -> list[ProviderModel]:
        """The providers' models."""
        return list(self._models)

    def candidates(self) -> list[Candidate]:
        """Every model through every key."""
        return [candidate for model in self._models for candidate in self._by_name[model.id].candidates]

    def aliases(self) -> list[Alias]:
        """All aliases, those of single tenants too."""
        return list(self._aliases.values())

    def listed(self, tenant_id: UUID | None = None) -> list[ListedModel]:
        """All models of the tenant, the built-in ones first."""
        return [
            *(ListedModel(name, BUILT_IN_PROVIDER, built_in=True) for name in _BUILT_IN),
            *(
                ListedModel(alias.name, BUILT_IN_PROVIDER, built_in=False, type=_type(alias.candidates))
                for alias in self._aliases.values()
                if _offered(alias, tenant_id)
            ),
            *(
                ListedModel(model.id, model.provider, built_in=False, type=_type(self._by_name[model.id].candidates))
                for model in self._models
            ),
        ]

    def _find(self, name: str, tenant_id: UUID | None) -> Alias | None:
        alias = self._aliases.get(name)
        if alias is not None and _offered(alias, tenant_id):
            return alias
        return self._by_name.get(name)


def _for(alias: Alias, purpose: str) -> tuple[Candidate, ...]:
    candidates = tuple(candidate for candidate in alias.candidates if purpose in candidate.model.purposes)
    if not candidates:
        raise WireroomError(
            ErrorKind.INVALID,
            "model_unsuited",
            f"The model '{alias.name[:100]}' does not serve for {purpose}; choose another one.",
        )
    return candidates


def _type(candidates: Sequence[Candidate]) -> str:
    return "chat" if any("chat" in candidate.model.purposes for candidate in candidates) else "embedding"


def _not_found(name: str) -> WireroomError:
    return WireroomError(
        ErrorKind.NOT_FOUND, "model_not_found", f"The model '{name[:100]}' does not exist; GET /v1/models lists those that do."
    )


def _offered(alias: Alias, tenant_id: UUID | None) -> bool:
    return not alias.tenants or (tenant_id is not None and str(tenant_id) in alias.tenants)
