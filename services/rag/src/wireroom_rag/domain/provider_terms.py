"""Which providers may receive the texts of a collection, and so those of its documents."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from wireroom_common.errors import ErrorKind, WireroomError, invalid

# Names of providers, in order; for collections that take any there are no terms.
Terms = tuple[str, ...]
# Stands for every provider that is marked as one of the house.
LOCAL = "local"
ANY = "any"
MAX_PROVIDERS = 20
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,39}")


@dataclass(frozen=True)
class Receiver:
    """Whoever is behind an endpoint that gets texts: by the name that collections have for it, empty for none."""

    provider: str = ""
    local: bool = False

    def may_receive(self, terms: Sequence[Terms]) -> bool:
        """Whether every one of the collections names it."""
        return all(
            (bool(self.provider) and self.provider != LOCAL and self.provider in names) or (self.local and LOCAL in names)
            for names in terms
        )


def checked_providers(names: Sequence[str]) -> Terms:
    """Terms of a collection; none for `any`. INVALID for names that no provider can have."""
    unique = sorted(set(names))
    if unique == [ANY]:
        return ()
    if len(unique) > MAX_PROVIDERS or ANY in unique or not all(_NAME.fullmatch(name) for name in unique):
        raise invalid(
            "providers_invalid",
            f"'providers' is a list of up to {MAX_PROVIDERS} names of providers (a-z, 0-9, '.', '_', '-'; `local` for those that are marked"
            " as local), or `any` alone.",
            field="providers",
        )
    return tuple(unique)


def index_not_allowed(model: str) -> WireroomError:
    """The tenant's index gives all its texts to a model that a collection does not name."""
    return WireroomError(
        ErrorKind.CONFLICT,
        "collection_provider_not_allowed",
        f"The embedding model '{model}' stands behind an endpoint and gets the texts of all collections of the tenant; it is not among the"
        " providers that may receive those of this collection. Rebuild the index with the local model first, or name its provider.",
    )


def model_not_allowed(model: str) -> WireroomError:
    """A collection of the tenant does not name the model that an index is to be made with."""
    return WireroomError(
        ErrorKind.CONFLICT,
        "collection_provider_not_allowed",
        f"The embedding model '{model}' stands behind an endpoint, and a collection of the tenant does not name it among the providers that"
        " may receive its text. Change the collection's providers first, or choose the local model.",
    )
