"""Keys that cannot be built without saying whose entry it is."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, TypeAlias
from uuid import UUID

import msgspec

MAX_TAGS = 16
_NIL = UUID(int=0)
_encoder = msgspec.msgpack.Encoder(order="deterministic")


class Shared(Enum):
    """The one value says: everybody may read this entry, whatever their tenant."""

    SHARED = "shared"


SHARED: Final = Shared.SHARED
Scope: TypeAlias = UUID | Shared


@dataclass(frozen=True, slots=True)
class Key:
    """Where an entry is kept. Build it with `Key.of`.

    `tags` are named before the value is made: an invalidation that happens meanwhile is seen, because the look-up that missed the
    entry has read the tags' versions.
    """

    scope: Scope
    digest: bytes
    tags: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _require_scope(self.scope)
        if len(self.tags) > MAX_TAGS:
            msg = f"A cache key carries at most {MAX_TAGS} tags."
            raise ValueError(msg)

    @classmethod
    def of(cls, scope: Scope, *parts: Any, tags: tuple[str, ...] = ()) -> Key:
        """The key of `parts`: everything the value depends on, as plain values (text, bytes, numbers, ids, times, lists, maps).

        `scope` is the tenant, or `SHARED`; keys of two scopes are never equal. `tags` belong to the scope.
        """
        if not parts:
            msg = "A cache key needs what its value depends on."
            raise ValueError(msg)
        return cls(scope, hashlib.sha256(_encoder.encode(parts)).digest(), tags)


def scope_name(scope: Scope) -> str:
    """The scope as part of a name."""
    _require_scope(scope)
    return scope.value if isinstance(scope, Shared) else scope.hex


def _require_scope(scope: object) -> None:
    if not isinstance(scope, UUID | Shared) or scope == _NIL:
        msg = "A cache key needs a tenant's id, or SHARED."
        raise TypeError(msg)
