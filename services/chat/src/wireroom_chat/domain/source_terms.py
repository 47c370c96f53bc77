"""Which providers may receive the texts of sources: what their collections say."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from wireroom_chat.domain.providers import ProviderModel
from wireroom_common.errors import ErrorKind, WireroomError

# Stands in a collection's list for every provider that is marked as one of the house.
LOCAL = "local"
NOT_ALLOWED = "collection_provider_not_allowed"
_MAX_SETS = 50


@dataclass(frozen=True)
class SourceTerms:
    """One set of names for each collection that has any: a provider must be named by all of them."""

    sets: frozenset[frozenset[str]] = frozenset()

    @classmethod
    def read(cls, written: Any) -> SourceTerms:
        """From lists of names; what is none of them counts as a collection that names nobody."""
        if written is None:
            return ANY
        if not isinstance(written, Sequence) or isinstance(written, str):
            return NOBODY
        return cls(frozenset(frozenset(map(str, names)) if isinstance(names, Sequence) else frozenset() for names in written))

    @classmethod
    def union(cls, terms: Iterable[SourceTerms]) -> SourceTerms:
        """The terms of texts that stand together."""
        return cls(frozenset().union(*(item.sets for item in terms)))

    def allow(self, model: ProviderModel) -> bool:
        """Whether the model's provider may receive the texts."""
        return all(model.provider in names - {LOCAL} or (model.local and LOCAL in names) for names in self.sets)

    def written(self) -> tuple[tuple[str, ...], ...]:
        """Names in order, without sets that demand no more than another; a great many sets are as good as nobody."""
        strictest = [names for names in self.sets if not any(other < names for other in self.sets)]
        return tuple(sorted(tuple(sorted(names)) for names in strictest)) if len(strictest) <= _MAX_SETS else ((),)


ANY = SourceTerms()
NOBODY = SourceTerms(frozenset({frozenset()}))


def not_allowed() -> WireroomError:
    """No provider of the model may receive the texts."""
    return WireroomError(
        ErrorKind.FORBIDDEN,
        NOT_ALLOWED,
        "The collections of the passages for this answer name providers that may receive their text, and none of this model's is among"
        " them. Choose another model, or 'extractive', which answers with quotes and asks no provider.",
    )
