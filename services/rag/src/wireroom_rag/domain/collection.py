"""Collections: named sets of documents, who sees and changes them, and what may be noted on them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, NoReturn
from uuid import UUID

from wireroom_common.errors import ErrorKind, WireroomError, invalid
from wireroom_rag.domain.document import Document
from wireroom_rag.domain.provider_terms import Terms
from wireroom_rag.domain.quota import MAX_DAYS
from wireroom_rag.domain.scope import Scope

MAX_NAME = 256
MAX_DESCRIPTION = 2_000
MAX_NEW_MEMBERS = 500
# Of one query.
MAX_COLLECTIONS = 20
_MAX_NOTES = 16
_MAX_KEY = 64
_MAX_TEXT = 512
_MAX_JSON = 65_536
# Whole numbers that JSON's readers agree on.
_MAX_WHOLE = 2**53

Note = str | float | bool


class Visibility(StrEnum):
    """Who sees a collection: its owner (and who holds `collections:manage`), or everybody of the tenant who may read documents."""

    PRIVATE = "private"
    TENANT = "tenant"


@dataclass(frozen=True)
class NewCollection:
    """What a collection begins as."""

    name: str
    description: str = ""
    visibility: Visibility = Visibility.PRIVATE
    metadata: Mapping[str, Note] = field(default_factory=dict)
    expires_days: int = 0
    # Which providers may receive its texts; none for any.
    providers: Terms = ()


@dataclass(frozen=True)
class CollectionChange:
    """None leaves it as it is."""

    name: str | None = None
    description: str | None = None
    visibility: Visibility | None = None
    metadata: Mapping[str, Note] | None = None
    # 0: it does not expire.
    expires_days: int | None = None
    # Empty: any.
    providers: Terms | None = None


@dataclass(frozen=True)
class Collection:
    """A collection; its members counted by the state of their newest version, `size` in bytes of their files."""

    id: UUID
    owner_id: UUID
    name: str
    description: str
    visibility: Visibility
    metadata: Mapping[str, Note]
    created_at: datetime
    updated_at: datetime
    pending: int
    indexed: int
    rejected: int
    failed: int
    size: int
    expires_days: int
    last_active_at: datetime
    providers: Terms = ()


@dataclass(frozen=True)
class Member:
    """A document in a collection."""

    collection_id: UUID
    document: Document
    attributes: Mapping[str, Note]
    added_at: datetime


@dataclass(frozen=True)
class Members:
    """Which documents a query is limited to: those of any of the collections with all of the attributes that pass the filter.

    `passing`: an SQL/JSON path predicate over the attributes (`member_filter`); empty for all.
    """

    collection_ids: tuple[UUID, ...]
    attributes: Mapping[str, Note]
    passing: str = ""


@dataclass(frozen=True)
class IdPage:
    """`size` entries behind `after` or in front of `before`, in the order that `ascending` says."""

    size: int
    after: UUID | None = None
    before: UUID | None = None
    ascending: bool = False


def require_change(scope: Scope, owner_id: UUID) -> None:
    """FORBIDDEN unless the caller may change the collections of this owner."""
    if owner_id != scope.user_id and not scope.manages_collections:
        raise WireroomError(
            ErrorKind.FORBIDDEN, "collection_not_owned", "Only its owner or an administrator may change this collection."
        )


def checked_name(name: str) -> str:
    """Without surrounding space; empty is allowed, as names need not be unique."""
    return _text(name.strip(), "name", MAX_NAME)


def checked_expiry(days: int) -> int:
    """Days without use after which a collection goes; 0 for never."""
    if not 0 <= days <= MAX_DAYS:
        raise invalid("expires_days_out_of_range", f"A collection expires after 1 to {MAX_DAYS} days.", field="expires_days")
    return days


def checked_description(description: str) -> str:
    """As it was given."""
    return _text(description, "description", MAX_DESCRIPTION)


def notes(data: bytes, field: str, *, texts_only: bool = False) -> dict[str, Note]:
    """A JSON object of up to 16 texts (512 characters), numbers and truth values; empty for no bytes. INVALID otherwise."""
    entries = _entries(data)
    if entries is None or len(entries) > _MAX_NOTES or not all(_is_note(*entry, texts_only) for entry in entries.items()):
        kinds = "texts" if texts_only else "texts, numbers and truth values"
        raise invalid(
            f"{field}_invalid",
            f"'{field}' must be an object of at most {_MAX_NOTES} {kinds}; names may have {_MAX_KEY} characters, texts {_MAX_TEXT}.",
            field=field,
        )
    return entries


def _entries(data: bytes) -> dict[str, Any] | None:
    """The members of a JSON object; None for anything else."""
    if not data:
        return {}
    try:
        value = json.loads(data, parse_constant=_refuse) if len(data) <= _MAX_JSON else None
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _refuse(name: str) -> NoReturn:
    raise ValueError(name)


def _is_note(key: str, value: Any, texts_only: bool) -> bool:  # noqa: FBT001 - passed on
    if not 0 < len(key) <= _MAX_KEY or not _storable(key):
        return False
    if isinstance(value, str):
        return len(value) <= _MAX_TEXT and _storable(value)
    if texts_only or not isinstance(value, (int, float)):
        return False
    return math.isfinite(value) if isinstance(value, float) else abs(value) <= _MAX_WHOLE


def _storable(text: str) -> bool:
    # PostgreSQL has no NUL, and UTF-8 no halves of surrogate pairs.
    return not any(char == "\x00" or "\ud800" <= char <= "\udfff" for char in text)


def _text(text: str, field: str, most: int) -> str:
    if len(text) > most or not _storable(text):
        raise invalid(f"{field}_invalid", f"'{field}' may have up to {most} characters, and none that is not text.", field=field)
    return text
