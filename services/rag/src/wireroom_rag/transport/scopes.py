"""From the caller of an RPC to the scope of what it may see."""

from __future__ import annotations

from collections.abc import Sequence

from wireroom_common.errors import invalid
from wireroom_common.principal import Principal, current_principal
from wireroom_protos.rag.v1 import rag_pb2
from wireroom_rag.domain.scope import Scope, SourceKind

READ_DOCUMENTS = "docs:read"
WRITE_DOCUMENTS = "docs:write"
READ_NEWS = "news:read"
MANAGE_OWN = "collections:manage:own"
# The permission to change and delete what others own.
MANAGE_ALL = "collections:manage"

_PERMISSIONS = {SourceKind.DOCUMENT: READ_DOCUMENTS, SourceKind.ARTICLE: READ_NEWS}
_KINDS = {rag_pb2.SOURCE_KIND_DOCUMENT: SourceKind.DOCUMENT, rag_pb2.SOURCE_KIND_ARTICLE: SourceKind.ARTICLE}


def _scope(principal: Principal, kinds: frozenset[SourceKind]) -> Scope:
    return Scope(principal.tenant(), principal.user_id(), kinds, MANAGE_ALL in principal.permissions, principal.roles)


def document_scope(permission: str) -> Scope:
    """Documents only; FORBIDDEN without `permission`."""
    principal = current_principal()
    principal.require(permission)
    return _scope(principal, frozenset({SourceKind.DOCUMENT}))


def readable_scope() -> Scope:
    """Every kind that the caller may read; FORBIDDEN if there is none."""
    principal = current_principal()
    kinds = frozenset(kind for kind, permission in _PERMISSIONS.items() if permission in principal.permissions)
    if not kinds:
        principal.require(READ_DOCUMENTS)
    return _scope(principal, kinds)


def collection_scope(*, change: bool = False) -> Scope:
    """Documents, with the permission to read them and, for `change`, to manage collections; FORBIDDEN without."""
    principal = current_principal()
    if change and MANAGE_ALL not in principal.permissions:
        principal.require(MANAGE_OWN)
    return document_scope(READ_DOCUMENTS)


def scope_of_kinds(requested: Sequence[rag_pb2.SourceKind.ValueType], *, collections: bool = False) -> Scope:
    """The requested kinds, each with its permission; all readable ones if none is named, or documents if `collections` are."""
    if collections:
        current_principal().require(READ_DOCUMENTS)
    if not requested and collections:
        return document_scope(READ_DOCUMENTS)
    if not requested:
        return readable_scope()
    principal = current_principal()
    kinds = set()
    for value in requested:
        if value not in _KINDS:
            raise invalid("source_kind_unknown", "The kinds of sources are documents and articles.", field="kinds")
        principal.require(_PERMISSIONS[_KINDS[value]])
        kinds.add(_KINDS[value])
    return _scope(principal, frozenset(kinds))
